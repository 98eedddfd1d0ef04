"""Makes the helpers of this folder importable by name; they hold no tests."""

from __future__ import annotations

import sys
from pathlib import Path

collect_ignore = ["adapter.py", "groups.py", "inputs.py", "record.py", "values.py"]

sys.path.insert(0, str(Path(__file__).parent))
