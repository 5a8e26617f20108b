"""Checkpoints in every form load alike; damaged ones give one clear line."""

from __future__ import annotations

import json
import math
import pickle
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import PROMPT, Runner, on_ranks, save_bin

from engines.core.errors import UserError
from engines.models.checkpoint import Checkpoint
from engines.models.load import load_model


def load(directory, **settings):
    return load_model(str(directory), **{"dtype": torch.float32, "device": "cpu", **settings})


def logits_of(directory):
    return Runner(load(directory)).step({0: PROMPT})[0]


@pytest.fixture
def opt_copy(checkpoint, tmp_path):
    """A checkpoint of one safetensors file that a test may damage."""
    return Path(shutil.copytree(checkpoint("opt")[1], tmp_path / "damaged"))


def edit_tensors(directory, edit):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("kind", ["opt-post-norm", "llama", "llama-gqa-tied"])
def test_every_format_gives_the_same_logits(checkpoint, tmp_path, kind):
    model, directory = checkpoint(kind)
    expected = logits_of(directory)
    forms = {
        "sharded": lambda path: model.save_pretrained(path, max_shard_size="60KB"),
        "bin": lambda path: save_bin(model, path, num_shards=1),
        "sharded-bin": lambda path: save_bin(model, path, num_shards=3),
    }
    for form, save in forms.items():
        path = tmp_path / form
        path.mkdir()
        save(path)
        assert (len(list(path.glob("*.index.json"))) == 1) == form.startswith("sharded")
        assert torch.equal(logits_of(path), expected), form


def test_the_format_of_torch_before_1_6(checkpoint, tmp_path):
    model, directory = checkpoint("opt")
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)
    assert torch.equal(logits_of(tmp_path), logits_of(directory))
    for size in (0, 1, 30, 1000, file.stat().st_size - 9):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(UserError, match=r"pytorch_model\.bin cannot be read as tensors"):
            load(tmp_path)
        torch.save(model.state_dict(), file, _use_new_zipfile_serialization=False)


def test_names_without_the_model_prefix(checkpoint, tmp_path):
    model, directory = checkpoint("opt")
    model.model.save_pretrained(tmp_path)  # the base model, as facebook's own files
    assert torch.equal(logits_of(tmp_path), logits_of(directory))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_tensors_are_read_from_the_mapped_file(checkpoint, tmp_path, form):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux's list of mapped files")
    model, directory = checkpoint("llama")
    if form == "bin":
        save_bin(model, tmp_path, num_shards=1)
        directory = tmp_path
    stored = Checkpoint(directory).tensors["layers.1.mlp.down_proj.weight"]
    part = stored.read((slice(3, 9), slice(2, 5)))
    mapped = [line for line in maps.read_text().splitlines() if line.endswith(str(stored.file))]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    assert any(low <= part.data_ptr() < high for low, high in ranges)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_each_rank_reads_only_its_slices(checkpoint, tmp_path, monkeypatch, form):
    model, directory = checkpoint("llama")
    if form == "bin":
        save_bin(model, tmp_path, num_shards=2)
        directory = tmp_path
    reads = []
    fill = Checkpoint.fill

    def recording_fill(self, target, name, shape, start):
        stored = self.tensors[name]

        def read(part):
            values = stored.read(part)
            reads.append((name, values.numel(), math.prod(shape)))
            return values

        self.tensors[name] = replace(stored, read=read)
        fill(self, target, name, shape, start)

    monkeypatch.setattr(Checkpoint, "fill", recording_fill)
    on_ranks(4, lambda communicator: load(directory, communicator=communicator))
    assert len({name for name, _, _ in reads}) == len(Checkpoint(directory).tensors)
    for name, num_read, num_stored in reads:
        share = 1 if name.endswith("norm.weight") else 4
        rounding = 64 if num_stored == 99 * 64 else 0  # a quarter of 99 tokens, rounded up
        assert num_read <= num_stored / share + rounding, name


def test_other_types_are_converted(checkpoint, tmp_path):
    model, _ = checkpoint("opt")
    save_bin(model.double(), tmp_path, num_shards=1)
    converted = Runner(load(tmp_path)).step({0: PROMPT})[0]
    model.float()
    assert torch.equal(converted, logits_of(checkpoint("opt")[1]))


def test_missing_unexpected_and_misshapen_are_one_error(opt_copy):
    def edit(tensors):
        del tensors["model.decoder.layers.0.fc1.bias"]
        tensors["model.decoder.layers.9.fc1.bias"] = torch.zeros(3)
        tensors["model.decoder.layers.1.fc1.weight"] = torch.zeros(5, 7)

    edit_tensors(opt_copy, edit)
    with pytest.raises(UserError) as caught:
        load(opt_copy)
    message = str(caught.value)
    assert "missing: decoder.layers.0.fc1.bias;" in message
    assert "unexpected: decoder.layers.9.fc1.bias;" in message
    expected = "decoder.layers.1.fc1.weight is [5, 7] in model.safetensors, expected [144, 64]"
    assert expected in message
    assert "\n" not in message


def test_config_that_does_not_match_the_weights(opt_copy):
    config = json.loads((opt_copy / "config.json").read_text())
    config["num_hidden_layers"] = 5
    (opt_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"missing: decoder\.layers\.3\..* and 29 more"):
        load(opt_copy)


def test_quantized_weights(opt_copy):
    name = "model.decoder.layers.0.fc1.weight"
    edit_tensors(opt_copy, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(UserError, match=r"fc1\.weight in .* has type torch\.int8"):
        load(opt_copy)


DAMAGES = {
    "cut short": lambda content: content[:-100],
    "empty": lambda content: b"",
    "something else": lambda content: bytes(range(256)) * 9,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_safetensors(opt_copy, damage):
    file = opt_copy / "model.safetensors"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(
        UserError,
        match=r"model\.safetensors is not a readable .*: if it is damaged, fetch it again$",
    ):
        load(opt_copy)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_bin(checkpoint, tmp_path, damage):
    save_bin(checkpoint("opt")[0], tmp_path, num_shards=1)
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(UserError, match=r"pytorch_model\.bin cannot be read .* fetch it") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_advice_to_load_without_checks_is_not_passed_on(checkpoint, tmp_path):
    checkpoint("opt")[0].config.save_pretrained(tmp_path)
    torch.save({"weight": random.Random(0)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be read as tensors that torch\.save") as caught:
        load(tmp_path)
    assert "weights_only" not in str(caught.value)
    assert "trust" not in str(caught.value)


def test_an_odd_pickle_is_refused_without_a_warning(checkpoint, tmp_path, recwarn):
    """torch asks for reports of other pickle protocols."""
    checkpoint("opt")[0].config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"cannot be read as tensors that torch\.save"):
        load(tmp_path)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", ".", 5])
def test_an_index_names_files_beside_it_only(opt_copy, name):
    (opt_copy / "model.safetensors").rename(opt_copy.parent / "x.safetensors")
    index = opt_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"shards must lie beside the index$|is not an index of sh"):
        load(opt_copy)


def test_a_single_file_is_taken_before_an_index_as_by_transformers(opt_copy):
    expected = logits_of(opt_copy)
    (opt_copy / "model.safetensors.index.json").write_text("{}")
    assert torch.equal(logits_of(opt_copy), expected)


def test_a_tensor_that_is_there_twice(opt_copy):
    def edit(tensors):
        tensors["decoder.layers.0.fc1.bias"] = tensors["model.decoder.layers.0.fc1.bias"] + 1

    edit_tensors(opt_copy, edit)
    with pytest.raises(UserError, match=r"holds decoder\.layers\.0\.fc1\.bias twice, in model"):
        load(opt_copy)


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickled call was executed",))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_objects_are_not_executed(checkpoint, tmp_path, writer):
    checkpoint("opt")[0].config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    if writer == "torch":
        torch.save({"weight": _Trap()}, file)
    else:
        file.write_bytes(pickle.dumps({"weight": _Trap()}))
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore")  # of a protocol that PyTorch does not know
def test_any_byte_of_a_pickle_may_be_wrong(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({f"weight{i}": torch.ones(2, i + 1) for i in range(8)}, file)
    good = file.read_bytes()
    first, size = good.index(b"data.pkl"), 700
    draw = random.Random(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(good)
        damaged[first + draw.randrange(size)] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            Checkpoint(tmp_path)
        except UserError as error:
            refused += str(file) in str(error)
    assert refused > 100


def test_absent_files(opt_copy, tmp_path):
    (opt_copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights: expected model\.safetensors or"):
        load(opt_copy)
    index = opt_copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    with pytest.raises(UserError, match=r"lacks one\.safetensors, named in model\.safetensors\.in"):
        load(opt_copy)
    index.write_text(json.dumps({"weight_map": {"a": "x" * 300}}))  # no file system has it
    with pytest.raises(UserError, match=r"lacks x+, named in model\.safetensors\.in"):
        load(opt_copy)
    for text in ("[]", "[" * 100_000):
        index.write_text(text)
        with pytest.raises(UserError, match="is not an index of shards"):
            load(opt_copy)
    with pytest.raises(UserError, match=r"absent does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"^absent does not exist"):
        load("./absent")
    with pytest.raises(UserError, match=r"^x+ cannot be read: File name too long"):
        load("./" + "x" * 300)
    with pytest.raises(UserError, match=r"unknown model 'opt-14b': did you mean opt-13b"):
        load("opt-14b")
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        load(tmp_path)
