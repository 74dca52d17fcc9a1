"""Files that are written whole, and what is left where that was cut short."""

from regnet_backbones.files import remove_parts, write_whole


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path):
    def write(file):
        file.write(b"half")
        left.append(next(tmp_path.glob(".*")).name)

    left = []
    file = tmp_path / "model_final.pth"
    write_whole(file, write)
    assert file.read_bytes() == b"half"
    (tmp_path / left[0]).write_bytes(b"ha")  # by the name that `write_whole` writes to
    others = [file, tmp_path / "notes.part", tmp_path / ".hidden", tmp_path / "folder" / left[0]]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.touch()
    remove_parts(tmp_path)
    assert not (tmp_path / left[0]).exists()
    assert all(other.exists() for other in others)
    remove_parts(tmp_path / "not there")
