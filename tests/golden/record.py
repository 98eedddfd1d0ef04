"""Write `golden.json` from the present code: `python tests/golden/record.py` with the package installed.

Only for a change of numbers that is wanted: read the difference of the file before it is committed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["PERSONALLLM_OFFLINE"] = "1"
    sys.path.insert(0, str(Path(__file__).parent))
    from groups import record

    record()
