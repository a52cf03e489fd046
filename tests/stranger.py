"""A Python process of someone who has the libraries, and nothing of ours even where this repository is installed."""

import sysconfig

# An editable install is found through a .pth file, which the site module reads: it is left out, and the folder of the
# libraries named by hand.
OPTIONS = ("-I", "-S", "-c")


def script(code: str) -> str:
    """``code`` as a script for ``python *OPTIONS``."""
    places = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    return f"import sys\nsys.path += {places!r}\n{code}"
