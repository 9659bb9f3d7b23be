"""Makes `fakes`, the tests' stand-ins, importable from every test folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
