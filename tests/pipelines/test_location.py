"""Names as people write them, options that reach pyarrow, and secrets that reach no one else."""

from __future__ import annotations

import pytest
from pyarrow import fs as arrow_fs

from core.errors import DataError
from pipelines.classification.location import parse_location
from pipelines.classification.storage import open_folder

ENDPOINT = "region=us-east-1&scheme=http&endpoint_override=127.0.0.1:1"


@pytest.mark.parametrize(
    "name",
    ["my slides", "run#1", "100 %", "a%20b", "Ausstrich früh", "a+b", "what?", "a?b=c/d", "x&y=z", "a;b", "[1]", "a@b"],
)
def test_a_name_in_a_uri_is_taken_as_it_is_written(name: str) -> None:
    for place, wanted in ((f"lab/{name}", f"lab/{name}"), (f"lab/{name}/deep", f"lab/{name}/deep")):
        where = parse_location(f"s3://{place}?{ENDPOINT}")
        _, path = arrow_fs.FileSystem.from_uri(where.uri)
        assert path == wanted
        assert where.shown == f"s3://{place}?{ENDPOINT}"
        assert where.base == f"s3://{place}"
        assert open_folder(where).show("x.jpg") == f"s3://{place}/x.jpg"


@pytest.mark.parametrize("name", ["my slides", "run#1", "100 %", "a%20b", "früh", "what?"])
def test_a_file_uri_and_a_path_name_the_same_folder(name: str, tmp_path: object) -> None:
    by_uri, by_path = open_folder(f"file://{tmp_path}/{name}/"), open_folder(f"{tmp_path}/{name}")
    assert (by_uri.path, by_uri.local, by_uri.shown) == (by_path.path, True, by_path.shown)
    by_path.write("x", b"1")
    assert by_uri.read("x") == b"1"


@pytest.mark.parametrize("secret", ["SECRETsecret", "SEC/RET+secret", "SEC%2FRETsecret"])
@pytest.mark.parametrize("options", ["", "?" + ENDPOINT])
def test_a_secret_reaches_pyarrow_and_is_shown_nowhere(secret: str, options: str) -> None:
    where = parse_location(f"s3://MYKEY:{secret}@lab/my slides{options}")
    plain = secret.replace("%2F", "/")
    for text in (str(where), repr(where), where.base, f"{where}"):
        assert "***@lab/my slides" in text
        assert secret not in text
        assert plain not in text
    assert where.scrub(f"no {plain}, no {secret}") == "no ***, no ***"
    if options:
        filesystem, path = arrow_fs.FileSystem.from_uri(where.uri)
        assert path == "lab/my slides"
        assert filesystem.equals(arrow_fs.S3FileSystem(
            access_key="MYKEY", secret_key=plain, region="us-east-1", scheme="http", endpoint_override="127.0.0.1:1"
        ))  # fmt: skip


def test_signed_options_are_not_shown_and_usual_ones_are() -> None:
    where = parse_location("s3://lab/a?X-Amz-Signature=abcdef012&region=us-east-1&sas_token=xyz987")
    assert where.shown == "s3://lab/a?X-Amz-Signature=***&region=us-east-1&sas_token=***"
    with pytest.raises(DataError) as caught:
        open_folder(where)
    assert caught.value.code == "bad-location"
    assert "abcdef012" not in str(caught.value)
    assert "xyz987" not in str(caught.value)


def test_a_location_that_cannot_be_opened_is_refused_without_its_secret() -> None:
    for text in (
        "s3://MYKEY:SECRETsecret@lab/a?nosuch=1",
        "nosuch://MYKEY:SECRETsecret@lab",
        "s3://K:SECRETsecret@l\n",
    ):
        with pytest.raises(DataError) as caught:
            open_folder(text)
        assert caught.value.code == "bad-location"
        error: BaseException | None = caught.value
        while error is not None:
            assert "SECRETsecret" not in str(error)
            error = error.__cause__
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_port_is_no_password() -> None:
    where = parse_location("hdfs://host:9000/x@y")
    assert where.shown == "hdfs://host:9000/x@y"
    assert where.secrets == ()
