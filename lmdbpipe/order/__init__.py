"""The order of an epoch, how it is dealt to ranks and workers, and the state to resume it: integers only."""

from lmdbpipe.order.base import BaseOrder
from lmdbpipe.order.dealing import Batch, Dealing, Uneven, padding_mask
from lmdbpipe.order.merge import merge, resume
from lmdbpipe.order.mixture import Mixture, apportion
from lmdbpipe.order.permute import Permutation, Purpose, window_permutation
from lmdbpipe.order.segments import Segments
from lmdbpipe.order.selection import Chosen, Repeated, Selection, Whole, choose
from lmdbpipe.order.state import STATE_VERSION, OrderState, Share
from lmdbpipe.order.weighted import Weighted, balance, draw

__all__ = [
    "STATE_VERSION",
    "BaseOrder",
    "Batch",
    "Chosen",
    "Dealing",
    "Mixture",
    "OrderState",
    "Permutation",
    "Purpose",
    "Repeated",
    "Segments",
    "Selection",
    "Share",
    "Uneven",
    "Weighted",
    "Whole",
    "apportion",
    "balance",
    "choose",
    "draw",
    "merge",
    "padding_mask",
    "resume",
    "window_permutation",
]
