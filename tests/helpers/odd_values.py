"""What a file may hold in place of what is expected: strategies for tests of bad input."""

from __future__ import annotations

from hypothesis import strategies as st

# Numbers that are none, or beyond a float and a machine's integers; text, lists and objects.
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from([10**30, -(10**30), 10**400, 1 << 31, 1 << 63])
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=4,
)
