"""``lmdbpipe bench``: how fast a file of the user's own is read on this machine, in every way, beside two floors."""

from lmdbpipe.bench.report import Report, as_json_dict, as_text
from lmdbpipe.bench.run import bench
from lmdbpipe.bench.ways import Options

__all__ = ["Options", "Report", "as_json_dict", "as_text", "bench"]
