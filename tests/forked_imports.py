"""What forked processes have at their beginning: imports, the catalog, numba at work once."""

import numpy as np

import hybrid.cli.app
import hybrid.runtime.child
from hybrid.planning.catalog import load_catalog
from transport.bitpack import pack_bits

__all__ = ["hybrid"]

load_catalog()
pack_bits(np.zeros(8, np.uint64), 1)
