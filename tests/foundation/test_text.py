"""Foreign text: what would act on a terminal or page is written out, and all else is left."""

from hypothesis import given
from hypothesis import strategies as st

from foundation.text import drawn, one_line, visible

ANY_TEXT = st.text(st.characters())  # lone surrogates among them


def test_what_acts_is_written_out_and_what_speaks_is_left() -> None:
    assert visible("\x1b[2J\0\x7f\x9b\r") == r"\x1b[2J\x00\x7f\x9b\x0d"
    assert visible("a\u202eb\u2066\u200f\ufeff\u2028\xad") == r"a\u202eb\u2066\u200f\ufeff\u2028\xad"
    assert visible("\ud800 \udcff \U000e0041") == r"\ud800 \udcff \U000e0041"
    for kept in ("plain [b]&<>", "line\n\tnext", "Ġthe größe 北京 العربية नमस्ते ⏎ ▁ 🙂", "می\u200cخواهم"):
        assert visible(kept) == kept
    assert one_line("a\n b\x85\x1bc") == r"a b \x1bc"
    assert drawn(1.5) == 1.5


@given(ANY_TEXT)
def test_whatever_comes_in_can_be_encoded_and_holds_nothing_that_acts(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert all(c in "\n\t" or c.isprintable() or c.isspace() or ord(c) > 0x9F for c in shown)
    assert visible(shown) == shown
    assert "\n" not in one_line(text)
