import email
import hashlib
import io
import pickle
import socket
import urllib.request
from http import HTTPStatus
from urllib.response import addinfourl

import pytest

from bench.workloads import datasets as data
from bench.workloads.lengths import read_lengths
from bench.workloads.tables import read_input
from engines.core.errors import UserError

PAIRS = [(1, 2), (300, 40), (70_000, 5), (2**31 - 1, 1)] * 3


def pairs_of(lengths):
    return list(zip(lengths.input_len.tolist(), lengths.output_len.tolist(), strict=True))


@pytest.fixture
def published(monkeypatch):
    """Pin the checksum of a pickle made here instead of the original's."""
    content = pickle.dumps(PAIRS)
    pinned = data.Dataset(
        "sharegpt", "", "https://localhost:1/x.pkl", hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(data.DATASETS, "sharegpt", pinned)
    return content


@pytest.fixture
def answer(monkeypatch):
    """Let every https address answer with a body, or with a status."""

    def start(body=b"", status=HTTPStatus.OK, location=""):
        class Handler(urllib.request.HTTPSHandler):
            def https_open(self, request):
                headers = email.message_from_string(f"Location: {location}")
                response = addinfourl(io.BytesIO(body), headers, request.full_url, status)
                response.msg = status.phrase
                return response

        monkeypatch.setattr(urllib.request, "HTTPSHandler", Handler)

    return start


def test_fetch_stores_the_lengths(tmp_path, published, answer):
    answer(published)
    path = data.fetch("sharegpt", tmp_path, url="https://mirror/x.pkl")
    assert path == data.lengths_path("sharegpt", tmp_path)
    assert pairs_of(read_lengths(read_input(path))) == PAIRS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_stored_bytes_depend_on_the_lengths_alone(tmp_path, published):
    source = tmp_path / "original.pkl"
    source.write_bytes(published)
    first = data.import_file("sharegpt", source, tmp_path / "a")
    table = tmp_path / "table.csv"
    table.write_text("input_len,output_len\n" + "".join(f"{i},{o}\n" for i, o in PAIRS))
    second = data.import_file("sharegpt", table, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert data.import_file("alpaca", first, tmp_path / "c").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b""])
def test_fetch_refuses_another_file(tmp_path, published, answer, change):
    answer(change(published))
    with pytest.raises(UserError, match="expected " + data.DATASETS["sharegpt"].sha256):
        data.fetch("sharegpt", tmp_path)
    assert not list(tmp_path.iterdir())


def test_fetch_refuses_a_file_without_end(tmp_path, published, answer, monkeypatch):
    answer(published)
    monkeypatch.setattr(data, "MAX_BYTES", len(published) - 1)
    with pytest.raises(UserError, match="larger than"):
        data.fetch("sharegpt", tmp_path)


def test_fetch_names_the_address_and_the_manual_way_when_offline(tmp_path):
    with socket.socket() as bound:  # bound and not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{bound.getsockname()[1]}/x.pkl"
        with pytest.raises(UserError, match="could not download") as caught:
            data.fetch("sharegpt", tmp_path, url=url)
    assert url in str(caught.value)
    assert "bench data import sharegpt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetch_reports_a_missing_page(tmp_path, published, answer):
    answer(status=HTTPStatus.NOT_FOUND)
    with pytest.raises(UserError, match=r"could not download https://localhost.*Not Found"):
        data.fetch("sharegpt", tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/x", "file:///etc/hosts", "ftp://h/x", "x.pkl"])
def test_fetch_uses_https_alone(tmp_path, url):
    with pytest.raises(UserError, match="only https"):
        data.fetch("sharegpt", tmp_path, url=url)


def test_redirects_away_from_https_are_refused(tmp_path, published, answer):
    answer(status=HTTPStatus.FOUND, location="http://127.0.0.1:1/elsewhere")
    with pytest.raises(UserError, match="refused to download from http://127"):
        data.fetch("sharegpt", tmp_path)


def test_datasets_without_a_published_file_say_how_to_import(tmp_path):
    with pytest.raises(UserError, match="bench data import alpaca FILE"):
        data.fetch("alpaca", tmp_path)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(PAIRS))
    with pytest.raises(UserError, match="give a CSV"):
        data.import_file("alpaca", path, tmp_path)


def test_the_published_rounds_of_chat_become_turns(tmp_path, monkeypatch):
    content = b"num_prefill_tokens,num_decode_tokens\n10,5\n25,3\n4,6\n30,7\n29,9\n"
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(data, "CHAT_SHA256", digest)
    monkeypatch.setitem(data.DATASETS, "chat", data.Dataset("chat", "", "https://x", digest))
    source = tmp_path / "rounds.csv"
    source.write_bytes(content)
    found = read_lengths(read_input(data.import_file("chat", source, tmp_path)))
    assert pairs_of(found) == [(10, 5), (10, 3), (4, 6), (20, 7), (29, 9)]
    assert found.conversation.tolist() == [0, 0, 1, 1, 2]


def test_names_and_files_are_checked(tmp_path):
    assert set(data.DATASETS) == {"sharegpt", "alpaca", "chat", "translation"}
    with pytest.raises(UserError, match="did you mean sharegpt"):
        data.fetch("sharegtp", tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        data.import_file("sharegpt", tmp_path / "none.pkl", tmp_path)
    bad = tmp_path / "bad.csv"
    bad.write_text("input_len,output_len\n1,x\n")
    with pytest.raises(UserError, match="line 2"):
        data.import_file("alpaca", bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()
