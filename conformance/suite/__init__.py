"""The conformance suite: what a case is, what it has in hand, how it is judged, how that is told.

`case.py` is the register of cases, `stage.py` what a case works with (an adapter process, connections to it, its
folders), `runner.py` runs cases and gives verdicts, `guard.py` ends what they started, `warm.py` starts an adapter in
Python quickly, `report.py` and `page.py` write it all down. The cases themselves are in `conformance/cases/`, one file for each section.
"""

VERSION = "1.0"
