"""A folder of labelled images as it comes from people, systems and editors."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionquant.accuracy import image_folder
from visionquant.core.errors import StudyError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three cats and two dogs, no two files alike."""
    for number, name in enumerate(("cat/a.jpg", "cat/b.JPG", "cat/deep/c.PnG", "dog/a.webp", "dog/b.bmp")):
        put(tmp_path / name, number)
    return tmp_path


def put(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (40 * number, 0, 0)).save(path)


PLAIN = ("cat/a.jpg", "cat/b.JPG", "cat/deep/c.PnG", "dog/a.webp", "dog/b.bmp")


def test_suffixes_are_read_in_any_case_and_folders_in_depth(root: Path) -> None:
    found = image_folder.read_folder(root, 100)
    assert found.paths == PLAIN
    assert found.labels == (0, 0, 0, 1, 1)
    assert found.skipped == {}


def test_what_systems_and_editors_leave_is_passed_over_and_counted(root: Path) -> None:
    put(root / "cat" / ".ipynb_checkpoints" / "a-checkpoint.jpg", 6)
    put(root / ".ipynb_checkpoints" / "x.jpg", 6)
    put(root / "__MACOSX" / "cat" / "a.jpg", 6)
    put(root / "cat" / "._a.jpg", 6)
    for name in ("cat/.DS_Store", "cat/Thumbs.db", "dog/notes.txt", "dog/labels.TXT", "dog/LICENSE", "README.md"):
        (root / name).write_text("not an image")
    (root / "fox").mkdir()
    found = image_folder.read_folder(root, 100)
    assert found.paths == PLAIN
    assert found.classes == ("cat", "dog")
    assert found.skipped == {
        ".txt": 2,
        "folders without images": 1,
        "hidden": 6,
        "outside a class folder": 1,
        "without a suffix": 1,
    }


def test_links_and_folders_with_an_image_s_name(root: Path) -> None:
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "cat" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "cat" / "self.jpg").symlink_to(root / "cat" / "self.jpg")
    put(root / "cat" / "album.jpg" / "inner.png", 6)
    put(root / "elsewhere.png", 7)
    (root / "dog" / "linked.png").symlink_to(root / "elsewhere.png")
    found = image_folder.read_folder(root, 100)
    assert found.paths == (
        "cat/a.jpg",
        "cat/album.jpg/inner.png",
        "cat/b.JPG",
        "cat/deep/c.PnG",
        "dog/a.webp",
        "dog/b.bmp",
        "dog/linked.png",
    )
    assert found.skipped == {"dead links or no files": 2, "links to folders": 1, "outside a class folder": 1}


def test_a_copy_under_another_name_is_no_neighbour(root: Path) -> None:
    (root / "cat" / "a (1).jpg").write_bytes((root / "cat" / "b.JPG").read_bytes())
    (root / "dog" / "c.jpg").write_bytes((root / "cat" / "b.JPG").read_bytes())
    found = image_folder.read_folder(root, 100)
    assert found.paths == ("cat/a (1).jpg", "cat/a.jpg", "cat/deep/c.PnG", "dog/a.webp", "dog/b.bmp")
    assert found.skipped == {"copies": 1, "copies from another class": 1}


def test_a_copy_makes_room_for_the_next_image(root: Path) -> None:
    (root / "cat" / "a (1).jpg").write_bytes((root / "cat" / "a.jpg").read_bytes())
    assert image_folder.read_folder(root, 4).paths == ("cat/a (1).jpg", "cat/b.JPG", "dog/a.webp", "dog/b.bmp")


def test_a_folder_of_nothing_but_odd_entries_says_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.tiff").write_bytes(b"")
    (tmp_path / "cat" / "b.jpg").symlink_to(tmp_path / "annex")
    with pytest.raises(
        StudyError, match=r"beside 1 \.tiff, 1 dead links or no files, 1 folders without images; lay it"
    ):
        image_folder.read_folder(tmp_path, 5)


def test_a_name_that_is_no_text_is_one_line(root: Path) -> None:
    os.rename(root / "cat" / "a.jpg", os.fsencode(root) + b"/cat/\xe9.jpg")  # noqa: PTH104 pathlib takes no bytes
    with pytest.raises(StudyError, match=r"the name 'cat/\\udce9.jpg' is no UTF-8; rename it"):
        image_folder.read_folder(root, 100)


def test_a_folder_that_can_not_be_read_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def denied(path: str) -> object:  # root reads everything
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StudyError, match=r"deep: Permission denied; make it readable"):
        image_folder.read_folder(root, 100)


def test_an_image_is_opened_upright_or_refused_with_its_name(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "cat" / "a.jpg").save(root / "cat" / "a.jpg", exif=exif)
    found = image_folder.read_folder(root, 100)
    assert found.picture("cat/a.jpg").size == (10, 20)
    assert np.asarray(found.picture("dog/a.webp")).shape == (10, 20, 3)
    (root / "cat" / "a.jpg").write_bytes((root / "cat" / "a.jpg").read_bytes()[:200])
    with pytest.raises(StudyError, match=r"evaluation\.images: cat/a\.jpg: a broken image file: .*; remove or mend it"):
        found.picture("cat/a.jpg")
    (root / "cat" / "a.jpg").unlink()
    with pytest.raises(StudyError, match=r"cat/a\.jpg: No such file"):
        found.picture("cat/a.jpg")
