"""daybook's configuration file and flags, as the original reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildstep.assets import daybook
from buildstep.assets.daybook import CONFIG_FILE, Daybook, Flags, FlagsError, load, parse_flags
from buildstep.errors import SpecError, UsageError

# As daybook ships them: a comma is missing after the bucket.
PULL_EXAMPLE = """{
    "hostname": "test-host",
    "bucket_name": "service-assets"
    "install_dir": "/var/company/services",
    "aws_access_key": "xxxxx",
    "aws_secret_key": "yyyyy"
}
"""
PUSH_EXAMPLE = PULL_EXAMPLE.replace('"test-host"', '""').replace("service-assets", "daybook")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "daybook.json"
    path.touch(0o600)
    return path


@pytest.mark.parametrize("text", [PULL_EXAMPLE, PUSH_EXAMPLE], ids=["pull", "push"])
def test_d15_the_invalid_examples_give_one_clear_message(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(str(config))
    (fault,) = caught.value.faults
    assert fault.where == "line 4 column 5"
    assert fault.hint == "a comma is missing at the end of line 3"
    assert str(config) in caught.value.message


@pytest.mark.parametrize("text", [PULL_EXAMPLE, PUSH_EXAMPLE], ids=["pull", "push"])
def test_d15_with_the_comma_they_load(config: Path, text: str) -> None:
    config.write_text(text.replace('"\n    "install', '",\n    "install'))
    found = load(str(config))
    assert found.install_dir == "/var/company/services"
    assert (found.aws_access_key, found.aws_secret_key) == ("xxxxx", "yyyyy")
    assert found.notes == ()
    assert (found.hostname, found.store_url) in [("test-host", "s3://service-assets"), ("", "s3://daybook")]


def test_d15_our_own_example_is_valid(config: Path) -> None:
    page = Path(__file__).parents[3] / "docs/how-to/migrate-from-daybook.md"
    example = page.read_text().partition("```json\n")[2].partition("```")[0]
    config.write_text(example)
    found = load(str(config))
    assert found.notes == ()
    assert found.consul_address


def test_nothing_is_needed(config: Path) -> None:
    config.write_text("{}")
    assert load(str(config)) == Daybook()
    assert Daybook().store_url == "s3://daybook"
    assert Daybook().install_dir == "/tmp"
    assert Daybook().register_url == "consul://"
    assert Daybook().host()


def test_the_default_file_need_not_be_there_but_a_named_one(tmp_path: Path) -> None:
    if not Path(CONFIG_FILE).exists():
        assert load(CONFIG_FILE) == Daybook()
    with pytest.raises(SpecError, match=r"no\.json"):
        load(str(tmp_path / "no.json"))
    with pytest.raises(UsageError, match="You must specify a path"):
        load("")


def test_keys_are_found_as_go_finds_them(config: Path) -> None:
    config.write_text(
        '{"Bucket_Name": "b", "HOSTNAME": null, "install_dir": "", "_remark": "x", "endpiont": "y"}'
    )
    found = load(str(config))
    assert found.bucket_name == "b"
    assert (found.hostname, found.install_dir) == ("", "/tmp")
    assert found.notes == (
        f'{config}: "_remark" is not a known key',
        f'{config}: "endpiont" is not a known key; did you mean "endpoint"?',
    )


@pytest.mark.parametrize("empty", ["null", '""'])
def test_what_is_empty_sets_nothing(config: Path, empty: str) -> None:
    keys = daybook.RULE["properties"]
    config.write_text("{" + ", ".join(f'"{key}": {empty}' for key in keys) + "}")
    assert load(str(config)) == Daybook()


def test_no_fault_shows_a_secret(config: Path) -> None:
    config.write_text('{\n"aws_access_key": "A",\n"aws_secret_key": "s3cret"\n"region": "r"}')
    with pytest.raises(SpecError) as caught:
        load(str(config))
    assert "line 3" in caught.value.detail
    assert "s3cret" not in caught.value.detail
    config.write_text(
        '{"endpoint": "https://A:s3cret@minio", "consul_address": "http://u:s3cret@consul:8500"}'
    )
    with pytest.raises(SpecError) as caught:
        load(str(config))
    assert "minio" in caught.value.detail
    assert "s3cret" not in caught.value.detail


def test_all_faults_are_told_together(config: Path) -> None:
    config.write_text('{"hostname": 7, "keep": 0, "compat": "yes", "endpoint": "minio:9000"}')
    with pytest.raises(SpecError) as caught:
        load(str(config))
    assert [fault.where for fault in caught.value.faults] == [
        "$.hostname",
        "$.keep",
        "$.compat",
        "$.endpoint",
    ]
    config.write_text("[]")
    with pytest.raises(SpecError, match="1 fault"):
        load(str(config))


def test_numbers_as_json_has_them(config: Path) -> None:
    config.write_text('{"keep": 2.0}')
    found = load(str(config)).keep
    assert (found, type(found)) == (2, int)


def test_a_secret_that_all_can_read_is_told(config: Path) -> None:
    config.write_text('{"aws_access_key": "A", "aws_secret_key": "s3cret"}')
    config.chmod(0o644)
    (note,) = load(str(config)).notes
    assert f"chmod 0600 {config}" in note
    assert "s3cret" not in note
    config.chmod(0o600)
    assert load(str(config)).notes == ()


def test_credentials_of_the_file_count_alone() -> None:
    around = {"AWS_PROFILE": "p", "AWS_SESSION_TOKEN": "t", "AWS_ACCESS_KEY_ID": "other", "HOME": "/h"}
    found = Daybook(aws_access_key="A", aws_secret_key="S", region="eu-west-1").environ(around)
    assert found == {
        "AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_REGION": "eu-west-1", "HOME": "/h",
    }  # fmt: skip
    assert Daybook(aws_access_key="A").environ(around) == around  # one without the other counts for nothing


def test_credentials_by_the_names_that_its_library_knew() -> None:
    around = {"AWS_ACCESS_KEY": "A", "AWS_SECRET_KEY": "S", "AWS_SECURITY_TOKEN": "T"}
    found = Daybook().environ(around)
    assert found | around == found
    assert (found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]) == ("A", "S")
    assert found["AWS_SESSION_TOKEN"] == "T"


def test_d05_region_endpoint_and_consul_can_be_set(config: Path) -> None:
    config.write_text(
        '{"region": "eu-west-1", "endpoint": "http://minio:9000", "consul_address": "https://consul:8501"}'
    )
    found = load(str(config))
    assert found.environ({})["AWS_REGION"] == "eu-west-1"
    assert found.endpoint == "http://minio:9000"
    assert found.register_url == "consul+https://consul:8501"
    assert Daybook(consul_address="http://consul:8500/").register_url == "consul://consul:8500"
    assert Daybook(consul_address="consul:8500").register_url == "consul://consul:8500"
    assert Daybook(register="file:/etc/maps.toml").register_url == "file:/etc/maps.toml"
    assert Daybook(consul_token_file="/t").consul_options == {"token_file": "/t"}


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ([], Flags(CONFIG_FILE, ())),
        (["web", "1", "x.tar.gz"], Flags(CONFIG_FILE, ("web", "1", "x.tar.gz"))),
        (["-config-file", "F", "web"], Flags("F", ("web",))),
        (["--config-file", "F", "web"], Flags("F", ("web",))),
        (["-config-file=F", "web"], Flags("F", ("web",))),
        (["--config-file=F=G"], Flags("F=G", ())),
        (["-config-file="], Flags("", ())),
        (["-config-file", "-x"], Flags("-x", ())),
        (["-config-file", "A", "-config-file", "B"], Flags("B", ())),
        (["add", "-config-file", "F"], Flags(CONFIG_FILE, ("add", "-config-file", "F"))),
        (["-config-file=F", "--", "-x"], Flags("F", ("-x",))),
        (["-", "x"], Flags(CONFIG_FILE, ("-", "x"))),
        (["-h"], Flags(CONFIG_FILE, (), help=True)),
        (["--help"], Flags(CONFIG_FILE, (), help=True)),
    ],
    ids=str,
)
def test_flags_are_read_as_go_reads_them(argv: list[str], found: Flags) -> None:
    assert parse_flags(argv) == found


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-config-file"], "flag needs an argument: -config-file"),
        (["-nope"], "flag provided but not defined: -nope"),
        (["--config_file=F"], "flag provided but not defined: -config_file"),
        (["---config-file"], "bad flag syntax: ---config-file"),
        (["-=F"], "bad flag syntax: -=F"),
    ],
)
def test_flags_that_go_refuses(argv: list[str], message: str) -> None:
    with pytest.raises(FlagsError) as caught:
        parse_flags(argv)
    assert caught.value.message == message


def test_every_key_of_the_file_is_a_setting() -> None:
    fields = set(Daybook.__dataclass_fields__) - {"notes"}
    assert set(daybook.RULE["properties"]) == fields
