import json
import os
import stat

import pytest

from fastgan.errors import UserError
from fastgan.files import is_taken, read_json, write_folder, write_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_settings_are_read_in_any_encoding_that_a_shell_or_an_editor_writes(tmp_path, encoding):
    (tmp_path / "settings.json").write_bytes(json.dumps({"dataset": "Äpfel"}, ensure_ascii=False).encode(encoding))
    assert read_json(tmp_path / "settings.json") == {"dataset": "Äpfel"}


def test_what_is_no_json_is_said(tmp_path):
    (tmp_path / "settings.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(tmp_path / "settings.json")


def test_a_folder_is_made_with_the_rights_that_any_folder_gets(tmp_path):
    (tmp_path / "plain").mkdir()
    write_folder(tmp_path / "whole", lambda folder: write_text(folder / "a.txt", "a"))
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole")]
    assert rights[0] == rights[1]
    assert sorted(os.listdir(tmp_path)) == ["plain", "whole"]


def test_what_a_file_manager_leaves_in_a_folder_does_not_take_it(tmp_path):
    folder = tmp_path / "new"
    assert not is_taken(folder)
    folder.mkdir()
    (folder / ".DS_Store").touch()
    (folder / "desktop.ini").touch()
    assert not is_taken(folder)
    (folder / "picture.png").touch()
    assert is_taken(folder) and is_taken(folder / "picture.png")
