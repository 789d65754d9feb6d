"""A batch goes on with its own parts only."""

from __future__ import annotations

import pytest

from edge_retina.batch.job import is_done, job_folder, open_job, remove
from edge_retina.batch.results import write_parquet
from edge_retina.errors import UsageError

ABOUT = {"batch": 1, "bundle_digest": "b", "min_score": 0.3, "sources": "s", "files": 2, "labels": []}
OTHERS = [("bundle_digest", "the bundle"), ("min_score", "--min-score"), ("sources", "the files"), ("batch", "format")]


def test_a_new_one_and_one_that_goes_on(tmp_path):
    out = tmp_path / "sub" / "o.parquet"
    assert not is_done(out, ABOUT)
    with open_job(out, ABOUT) as folder:
        assert folder.path == job_folder(out) == tmp_path / "sub" / "o.parquet.parts"
        assert folder.found() == {}
    with open_job(out, ABOUT) as folder:
        remove(folder)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(("key", "called"), OTHERS)
def test_another_batch_is_refused(tmp_path, key, called):
    out = tmp_path / "o.parquet"
    with open_job(out, ABOUT):
        pass
    with pytest.raises(UsageError, match=called), open_job(out, {**ABOUT, key: 7}):
        pass
    write_parquet(out, [], ABOUT)
    assert is_done(out, ABOUT)
    with pytest.raises(UsageError, match=called):
        is_done(out, {**ABOUT, key: 7})


def test_two_at_once(tmp_path):
    out = tmp_path / "o.parquet"
    with open_job(out, ABOUT), pytest.raises(UsageError, match="at work there"), open_job(out, ABOUT):
        pass


def test_files_of_someone_else_are_left_alone(tmp_path):
    out = tmp_path / "o.parquet"
    out.write_text("my notes")
    with pytest.raises(UsageError, match="no batch of edge-retina wrote it"):
        is_done(out, ABOUT)
    (tmp_path / "o.parquet.parts").mkdir()
    (tmp_path / "o.parquet.parts" / "batch.json").write_text("{")
    with pytest.raises(UsageError, match="no batch"), open_job(out, ABOUT):
        pass
    assert out.read_text() == "my notes"
