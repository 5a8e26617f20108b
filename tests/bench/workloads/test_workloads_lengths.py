import numpy as np
import pandas as pd
import pytest
from places import SHARED

from bench.workloads.build import STATISTICS_FILE, sharegpt_lengths
from bench.workloads.derivation import derive_statistics
from bench.workloads.lengths import (
    EmpiricalLengths,
    Lengths,
    alpaca_lengths,
    read_lengths,
    real_lengths,
    sample_lengths,
)
from bench.workloads.quantiles import INPUT_LEVELS, OUTPUT_LEVELS, QuantileTable
from bench.workloads.tables import read_input
from engines.core.errors import UserError

REAL = SHARED / "data" / "sharegpt_lengths.csv.gz"
COUNT = 500_000


def real_data(test):
    """Mark a test that needs the real lengths."""
    missing = pytest.mark.skipif(not REAL.exists(), reason=f"the real lengths are not at {REAL}")
    return pytest.mark.real_data(missing(test))


def draw(source, count=COUNT, seed=0, limit=2048):
    generator = np.random.default_rng(seed)
    return sample_lengths(source, count, generator=generator, limit=limit)


def rank_correlation(lengths: Lengths) -> float:
    frame = pd.DataFrame({"i": lengths.input_len, "o": lengths.output_len})
    return float(frame.i.rank().corr(frame.o.rank()))


def next_power_of_two(values):
    return np.exp2(np.ceil(np.log2(values)))


def moments(lengths: Lengths) -> dict[str, float]:
    """Quantities that memory use and batch sizes of the four systems hang on."""
    i, o = lengths.input_len.astype(float), lengths.output_len.astype(float)
    pow2 = np.minimum(i + next_power_of_two(o), 2048)
    return {
        "input": i.mean(),
        "output": o.mean(),
        "total": (i + o).mean(),
        "squared input": (i * i).mean(),
        "token-time of Astra": (o * (i + o / 2)).mean(),
        "slot-time of Oracle": (o * (i + o)).mean(),
        "slot-time of Oracle, buddy": (o * next_power_of_two(i + o)).mean(),
        "pow2 of output": next_power_of_two(o).mean(),
        "pow2 of total": next_power_of_two(i + o).mean(),
        "reservation of Pow2": pow2.mean(),
        "slot-time of Pow2": (o * pow2).mean(),
        "slot-time of Pow2, buddy": (o * next_power_of_two(pow2)).mean(),
    }


@pytest.fixture(scope="module")
def sampled():
    return draw(sharegpt_lengths())


@pytest.fixture(scope="module")
def real():
    return read_lengths(read_input(REAL)).below(2048)


def test_sharegpt_means_are_the_paper_s(sampled):
    assert sampled.input_len.mean() == pytest.approx(161.31, rel=0.01)
    assert sampled.output_len.mean() == pytest.approx(337.99, rel=0.01)


def test_sharegpt_keeps_the_paper_s_limits(sampled):
    assert sampled.input_len.min() >= 1
    assert sampled.output_len.min() >= 1
    assert (sampled.input_len + sampled.output_len).max() < 2048
    assert sampled.input_len.dtype == sampled.output_len.dtype == np.int32


def test_sharegpt_lengths_correlate_by_rank(sampled):
    assert rank_correlation(sampled) == pytest.approx(0.2143, abs=0.02)


@real_data
def test_shipped_statistics_are_regenerated_byte_for_byte():
    assert derive_statistics(read_lengths(read_input(REAL))) == STATISTICS_FILE.read_text()


@real_data
def test_sampling_has_the_real_moments(sampled, real):
    expected = moments(real)
    assert moments(sampled) == {k: pytest.approx(v, rel=0.01) for k, v in expected.items()}


@real_data
@pytest.mark.parametrize("column", ["input_len", "output_len"])
def test_sampling_has_the_real_quantiles(sampled, real, column):
    levels = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]
    expected = np.quantile(getattr(real, column), levels)
    found = np.quantile(getattr(sampled, column), levels)
    assert found == pytest.approx(expected, rel=0.03, abs=1)


@real_data
def test_sampling_has_the_real_sizes_in_powers_of_two(sampled, real):
    for size in (lambda x: x.output_len, lambda x: x.input_len + x.output_len):
        expected = np.bincount(np.log2(next_power_of_two(size(real))).astype(int), minlength=12)
        found = np.bincount(np.log2(next_power_of_two(size(sampled))).astype(int), minlength=12)
        assert found / COUNT == pytest.approx(expected / len(real), abs=0.003)


def test_derived_table_survives_its_text():
    generator = np.random.default_rng(1)
    inputs = generator.integers(1, 1000, 5000).astype(np.int32)
    lengths = Lengths(inputs, generator.integers(1, 1000, 5000).astype(np.int32))
    text = derive_statistics(lengths)
    table = QuantileTable.parse(text, "test")
    assert table.rows.sum() == 5000
    assert table.to_csv() == "".join(x for x in text.splitlines(True) if not x.startswith("#"))
    assert (np.diff(table.inputs, axis=1) >= 0).all()
    assert (np.diff(table.outputs, axis=1) >= 0).all()


def even_table(inputs, outputs):
    """One bin, whose inputs and outputs are spread evenly between two values each."""
    columns = (np.rint(np.interp(levels, [0, 1], ends)).astype(int)[None]
               for levels, ends in ((INPUT_LEVELS, inputs), (OUTPUT_LEVELS, outputs)))  # fmt: skip
    return QuantileTable(np.array([1]), *columns, "even")


def test_a_pair_without_room_in_its_bin_gets_what_is_left():
    drawn = even_table((2000, 2046), (40, 1000)).draw(np.random.default_rng(0), 1000)
    assert (drawn.input_len + drawn.output_len).max() == 2047
    assert drawn.output_len.min() >= 1


def test_a_pair_that_does_not_fit_is_drawn_again_from_what_fits():
    table = even_table((1047, 1047), (1, 2000))
    outputs = table.draw(np.random.default_rng(0), 200_000).output_len
    counts = np.histogram(outputs, bins=10, range=(0.5, 1000.5))[0]
    assert counts / len(outputs) == pytest.approx(0.1, abs=0.005)


def test_a_longer_sample_begins_with_the_shorter_one():
    for source in (sharegpt_lengths(), alpaca_lengths()):
        short, long = draw(source, 1000, seed=5), draw(source, 100_000, seed=5)
        assert (short.input_len == long.input_len[:1000]).all()
        assert (short.output_len == long.output_len[:1000]).all()


def test_alpaca_means_and_spread():
    lengths = draw(alpaca_lengths())
    assert lengths.input_len.mean() == pytest.approx(19.31, rel=0.01)
    assert lengths.output_len.mean() == pytest.approx(58.45, rel=0.01)
    assert np.log(lengths.input_len).std() == pytest.approx(0.55, rel=0.02)
    assert np.log(lengths.output_len).std() == pytest.approx(0.85, rel=0.02)
    assert min(lengths.input_len.min(), lengths.output_len.min()) >= 1
    assert (lengths.input_len + lengths.output_len).max() < 2048


def test_real_lengths_drop_long_pairs_and_sample_the_rest(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("output_len,input_len\n10,1\n2000,48\n2000,47\n")
    source = real_lengths(read_input(path), first_turns=True)
    drawn = draw(source, 1000)
    pairs = set(zip(drawn.input_len.tolist(), drawn.output_len.tolist(), strict=True))
    assert pairs == {(1, 10), (47, 2000)}
    assert "2 rows" in source.description
    assert "mine.csv" in source.description


def test_lengths_that_never_fit_are_an_error():
    with pytest.raises(UserError, match="below 2 tokens"):
        draw(sharegpt_lengths(), 10, limit=2)
    ones = np.ones(3, np.int32)
    with pytest.raises(UserError, match="below 2 tokens"):
        EmpiricalLengths(Lengths(ones, ones), "x").shuffled_head(10, seed=0, limit=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input_len,output_len\n1,2\n0,2\n", "line 3: lengths must be at least 1, got 0 and 2"),
        ("input_len,output_len\n1500,1500\n", "no row with input_len"),
    ],
)
def test_bad_lengths_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        real_lengths(read_input(path), first_turns=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
