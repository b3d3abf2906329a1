"""Anchors in folders: `chatbot anchor`, and what `verify --anchors` finds once the log or an anchor was changed."""

import shutil
import sys
from pathlib import Path

import pytest

from events.integrity.signed_checkpoint import make_key
from tests.support.log.anchored_log import AnchoredLog
from tests.support.log.corruption import cut_off


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 3, then 5 events, both anchored in a folder `a`."""
    folder = tmp_path_factory.mktemp("anchored")
    log = AnchoredLog(folder)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    log.write(3)
    log.anchor(folder / "a")
    log.write(2)
    log.anchor(folder / "a")
    return folder


@pytest.fixture
def anchored(template: Path, tmp_path: Path) -> AnchoredLog:
    """A copy of it."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return AnchoredLog(tmp_path)


def anchors_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_anchor_is_a_file_named_by_origin_and_size_that_cannot_be_written_again(anchored: AnchoredLog) -> None:
    first, second = anchors_in(anchored.folder / "a")
    assert (first.name, second.name) == ("00000000000000000003", "00000000000000000005")
    assert first.parent.parent.name == "chatbot-log"
    assert first.stat().st_mode & 0o222 == 0
    before = second.read_bytes()
    (again,) = anchored.anchor(anchored.folder / "a")
    assert again == {"target": str(anchored.folder / "a"), "outcome": "present", "events": 5}
    assert second.read_bytes() == before


def test_a_log_that_only_grew_agrees_with_all_anchors(anchored: AnchoredLog) -> None:
    anchored.write(4)
    anchored.anchor(anchored.folder / "b")
    said, noted = anchored.run(*anchored.verify_arguments(anchored.folder / "a", anchored.folder / "b"))
    assert "it agrees with 3 anchors in 2 targets, the last of 9 events" in said
    assert noted == ""


def test_a_log_that_was_rolled_back_is_found_and_not_signed(anchored: AnchoredLog) -> None:
    cut_off(anchored.path, 4)
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    assert why.startswith("the log was rolled back: it has 4 events, but chatbot-log/")
    assert "00000000000000000005" in why
    why = anchored.refused("anchor", "--key", str(anchored.key), "--to", str(anchored.folder / "a"))
    assert "an anchor of 5 events exists, but the log has 4: it was rolled back" in why
    assert len(anchors_in(anchored.folder / "a")) == 2


def test_a_log_that_was_rewritten_after_an_anchor_names_the_first_that_does_not_agree(anchored: AnchoredLog) -> None:
    cut_off(anchored.path, 3)
    anchored.write(7, text="something else")  # a new chain, which is intact
    assert "the log holds" in anchored.run("verify")[0]
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    assert why.startswith("the log was rewritten between the events 4 and 5: chatbot-log/")
    why = anchored.refused(
        "anchor", "--key", str(anchored.key), "--to", str(anchored.folder / "b"), "--to", str(anchored.folder / "a")
    )
    assert "the anchor of 5 events" in why
    assert "the log was rewritten" in why
    assert anchors_in(anchored.folder / "b") == []


def test_a_log_that_was_replaced_from_its_first_event_is_another_log(anchored: AnchoredLog) -> None:
    cut_off(anchored.path, 0)
    anchored.write(9)
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    assert "has anchors of another log by this key, and none of chatbot-log/" in why


def test_two_targets_that_were_shown_two_logs_contradict_each_other(anchored: AnchoredLog) -> None:
    forked = anchored.folder / "forked.db"
    shutil.copy(anchored.path, forked)
    cut_off(forked, 4)
    anchored.write(3, forked, text="for the eyes of one auditor")
    anchored.write(2)
    anchored.anchor(anchored.folder / "a")
    honest, anchored.path = anchored.path, forked
    anchored.anchor(anchored.folder / "b")
    anchored.path = honest
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "b", anchored.folder / "a"))
    assert why.startswith("the anchors contradict each other: chatbot-log/")
    assert "state two trees of 7 events, so two logs were shown" in why
    assert str(anchored.folder / "a") in why
    assert str(anchored.folder / "b") in why


def test_a_forged_signature_proves_nothing(anchored: AnchoredLog) -> None:
    first, second = anchors_in(anchored.folder / "a")
    stranger = AnchoredLog(anchored.folder / "b")
    stranger.path = anchored.path
    (anchored.folder / "b" / "x").mkdir()
    stranger.anchor(anchored.folder / "b" / "x")
    (forged,) = anchors_in(anchored.folder / "b" / "x")
    second.chmod(0o644)
    second.write_bytes(forged.read_bytes())
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    assert "00000000000000000005" in why
    assert "the note is not signed by log" in why
    first.chmod(0o644)
    first.write_text(first.read_text().replace("\n3\n", "\n2\n"))
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    assert "00000000000000000003" in why
    assert "does not fit" in why


def test_an_anchor_under_another_name_was_moved(anchored: AnchoredLog) -> None:
    first, second = anchors_in(anchored.folder / "a")
    second.chmod(0o644)
    second.write_bytes(first.read_bytes())
    assert "it was moved" in anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))


def test_a_target_that_is_missing_or_empty_has_an_exit_code_of_its_own(anchored: AnchoredLog) -> None:
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a", anchored.folder / "b"), code=6)
    assert "not compared with every target:" in why
    assert "b has no anchor of chatbot-log/" in why
    gone = anchored.folder / "gone"
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a", gone), code=6)
    assert "gone cannot be read: there is no such folder" in why
    why = anchored.refused("anchor", "--key", str(anchored.key), "--to", str(gone), code=6)
    assert "there is no such folder" in why


def test_the_rest_of_an_interrupted_write_is_passed_over_and_stays(anchored: AnchoredLog) -> None:
    anchored.write(1)
    whole = anchors_in(anchored.folder / "a")[1].read_text()
    torn = anchors_in(anchored.folder / "a")[1].parent / f"{6:020}"
    for text in ("", whole[:40], whole[:-10]):
        torn.write_text(text)
        said, noted = anchored.run(*anchored.verify_arguments(anchored.folder / "a"))
        assert "it agrees with 2 anchors" in said
        assert "1 anchor is the rest of interrupted writes" in noted
        why = anchored.refused("anchor", "--key", str(anchored.key), "--to", str(anchored.folder / "a"), code=6)
        assert "the rest of an interrupted write: anchor again once the log has grown" in why
    anchored.write(1)
    assert anchored.anchor(anchored.folder / "a")[0]["outcome"] == "written"


def test_anchors_of_an_earlier_key_are_read_with_a_line_for_each_key(anchored: AnchoredLog) -> None:
    signer, verifier = make_key("second")
    earlier = anchored.public.read_text()
    anchored.key.write_text(signer)
    anchored.public.write_text(verifier)
    anchored.write(1)
    anchored.anchor(anchored.folder / "a")
    assert "the note is not signed by second" in anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    anchored.public.write_text(f"{verifier}\n{earlier}\n")
    assert "it agrees with 3 anchors" in anchored.run(*anchored.verify_arguments(anchored.folder / "a"))[0]


def test_a_bucket_without_its_library_says_which_extra_is_missing(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.delitem(sys.modules, "chatbot.anchors.targets.s3_store", raising=False)
    why = anchored.refused("anchor", "--key", str(anchored.key), "--to", "s3://audit/anchors", code=2)
    assert "needs the extra s3: pip install 'chatbot-backend[s3]'" in why


def test_options_that_do_not_go_together_are_refused(anchored: AnchoredLog) -> None:
    arguments = anchored.verify_arguments(anchored.folder / "a")
    assert "leave out" in anchored.refused(*arguments, "--checkpoint", "x", code=2)
    assert "name the public key" in anchored.refused("verify", "--anchors", "a", code=2)
    assert "ftp:// is no target" in anchored.refused("anchor", "--key", str(anchored.key), "--to", "ftp://x", code=2)
    assert "retain_days" in anchored.refused(
        "anchor", "--key", str(anchored.key), "--to", "s3://b/p?lock=compliance", code=2
    )


def test_an_import_is_another_log_with_anchors_of_its_own(anchored: AnchoredLog) -> None:
    exported = anchored.folder / "log.ndjson"
    anchored.run("export", "--output", str(exported))
    anchored.path = anchored.folder / "imported.db"
    anchored.run("import", str(exported))
    why = anchored.refused(*anchored.verify_arguments(anchored.folder / "a"))
    assert "has anchors of another log by this key" in why
    anchored.anchor(anchored.folder / "a")
    assert "it agrees with 1 anchor in 1 target" in anchored.run(*anchored.verify_arguments(anchored.folder / "a"))[0]


def test_a_backup_agrees_with_the_anchors_of_its_log(anchored: AnchoredLog) -> None:
    copy = anchored.folder / "copy.db"
    anchored.run("backup", str(copy))
    anchored.path = copy
    assert "it agrees with 2 anchors" in anchored.run(*anchored.verify_arguments(anchored.folder / "a"))[0]
