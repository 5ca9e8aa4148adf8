"""Code that a model brings along does not run unless it is trusted; nobody is asked, so no standard input can agree."""

import io
import json
from pathlib import Path

import pytest

from dense_adapters import AttachError, load_dense


def test_custom_code_is_refused_though_standard_input_says_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    model = tmp_path / "model"
    model.mkdir()
    (model / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (model / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(AttachError, match="not run; read that code") as refusal:
        load_dense(model)
    assert "\n" not in str(refusal.value)
    assert not ran.exists()
