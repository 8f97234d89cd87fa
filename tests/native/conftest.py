"""What the tests of the C++ loops share."""

import pytest

from learned_opt import native


@pytest.fixture(params=[16, 8, 4])
def lanes(request):
    """The floats of a register, which decide what code runs."""
    limit = native._library().learned_opt_limit_lanes
    width = limit(request.param)
    if width != request.param:
        limit(16)
        pytest.skip(f"this machine has no registers of {request.param} floats")
    yield width
    limit(16)
