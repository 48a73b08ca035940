"""The order of an epoch, how it is dealt to ranks and workers, and the state to resume it: integers only."""

from lmdbpipe.order.base import BaseOrder
from lmdbpipe.order.dealing import Batch, Dealing, Uneven
from lmdbpipe.order.merge import merge, resume
from lmdbpipe.order.permute import Permutation, Purpose, window_permutation
from lmdbpipe.order.segments import Segments
from lmdbpipe.order.state import STATE_VERSION, OrderState, Share

__all__ = [
    "STATE_VERSION",
    "BaseOrder",
    "Batch",
    "Dealing",
    "OrderState",
    "Permutation",
    "Purpose",
    "Segments",
    "Share",
    "Uneven",
    "merge",
    "resume",
    "window_permutation",
]
