"""Neuron cards: the right numbers, safe and readable HTML, one offline file."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import fake_tables
import numpy as np
import polars as pl
import pytest
from neuronlab import cards_data, cards_html, cards_style, cards_svg
from neuronlab.cards import CardsError, write_cards
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import write_table
from scipy.stats import percentileofscore

VOID = {"meta", "input", "br", "line", "rect", "circle", "path"}


@pytest.fixture(scope="module")
def world() -> fake_tables.World:
    return fake_tables.World(n_neurons=160, d_model=64)


@pytest.fixture(scope="module")
def tables(world: fake_tables.World) -> dict[str, pl.DataFrame]:
    return fake_tables.fake_tables(world)


@pytest.fixture(scope="module")
def paths(world: fake_tables.World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fake_tables.write_fake_tables(tmp_path_factory.mktemp("tables"), world)


def write(paths: dict[str, Path], target: Path, **options: object) -> str:
    arguments = {
        "neurons": paths["neurons"],
        "null_space": paths["null_space"],
        "selection": paths["selection"],
        "boosted": paths["boosted_tokens"],
        "strings": paths["token_strings"],
        "tokens": paths["tokens"],
        "statistics": paths["activation_statistics"],
        "effects": paths["effects"],
        "traces": paths["traces"],
        "cards": target,
        "model": "demo",
        "text": "evaluation",
    }
    write_cards(**arguments | options)
    return target.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(paths, tmp_path_factory.mktemp("cards") / "cards.html")


class Outline(HTMLParser):
    """Checks that tags nest, and collects ids, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.resources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.resources += [value for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.resources += [tag] if tag in ("script", "link", "iframe", "img", "object") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> without a start"
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


def test_the_page_nests_links_within_itself_and_fetches_nothing(html: str, world: fake_tables.World) -> None:
    found = outline(html)
    assert len(found.ids) == len(set(found.ids))
    assert not found.resources
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert not re.search(r"url\(|@import|https?:", html)
    expected = {f"n{world.last}-{neuron}" for neuron in [*world.entropy, *world.frequency]}
    assert expected <= set(found.ids)


def test_tokens_are_escaped(html: str, paths: dict[str, Path], tmp_path: Path) -> None:
    assert "<b>town</b>" not in html
    assert "&lt;b&gt;town&lt;/b&gt;" in html
    evil = "</span><script>alert('x')</script>\"'\x00\x1b"
    strings = fake_tables.fake_tables()["token_strings"].with_columns(string=pl.lit(evil))
    write_table(strings, tmp_path / "strings.parquet", "token_strings")
    page = write(paths, tmp_path / "cards.html", strings=tmp_path / "strings.parquet", model="<i>m</i>")
    assert outline(page)
    assert "<script" not in page
    assert "<i>m" not in page
    assert not re.search(r"[\x00\x1b]", page)


def test_the_page_repeats_and_stays_small(html: str, paths: dict[str, Path], tmp_path: Path) -> None:
    assert write(paths, tmp_path / "cards.html") == html
    world = fake_tables.World(n_neurons=160, d_model=64, n_entropy=20, length=128)
    many = fake_tables.write_fake_tables(tmp_path / "many", world)
    assert len(write(many, tmp_path / "many.html", sets=["entropy"]).encode()) < 2e6


def test_measures_and_percentiles(tables: dict[str, pl.DataFrame], world: fake_tables.World) -> None:
    neuron = world.entropy[2]
    found = cards_data.weight_measures(tables["neurons"], tables["null_space"], None, world.last, neuron)
    by_name = {measure.name: measure for measure in found}
    layer = tables["neurons"].filter(pl.col("layer") == world.last)
    others = layer.filter(pl.col("neuron") != neuron)["norm"].to_numpy()
    own = layer.filter(pl.col("neuron") == neuron)["norm"].item()
    assert by_name["norm"].value == own
    assert by_name["norm"].percentile == pytest.approx(percentileofscore(others, own, kind="mean"))
    assert {name for name in by_name if name.startswith("rho")} == {"rho, k = 4", "rho, k = 8"}
    cosine = layer.select("layer", "neuron", cosine=pl.col("neuron") / 1000)
    more = cards_data.weight_measures(tables["neurons"], tables["null_space"], cosine, world.last, neuron)
    assert next(m.value for m in more if m.name == "frequency cosine") == pytest.approx(neuron / 1000)


@pytest.mark.parametrize("value", [0.0, 1.0, 2.0, 7.0])
def test_percentile_counts_ties_half(value: float) -> None:
    others = np.array([1.0, 1.0, 2.0, 3.0])
    assert cards_data.percentile(others, value) == percentileofscore(others, value, kind="mean")
    assert cards_data.percentile(np.array([]), value) == 50


def test_excerpts_show_the_strongest_tokens_of_different_sequences(
    tables: dict[str, pl.DataFrame], world: fake_tables.World
) -> None:
    trace = tables["traces"].filter(pl.col("neuron") == world.entropy[0])
    strings = tables["token_strings"]["string"].to_list()
    found, activation, entropy = cards_data.excerpts(trace, tables["tokens"], strings, seed=4)
    assert [excerpt.why for excerpt in found].count("drawn at random") == cards_data.AT_RANDOM
    assert len({excerpt.sequence for excerpt in found}) == len(found) == 9
    best = trace.sort("activation", descending=True).row(0, named=True)
    assert (found[0].sequence, found[0].position) == (best["sequence"], best["position"])
    assert activation == np.abs(trace["activation"].to_numpy()).max()
    assert entropy == pytest.approx(np.quantile(np.abs(trace["entropy_total"].to_numpy()), 0.99))
    used = {excerpt.sequence for excerpt in found[: cards_data.TOP_ACTIVATION]}
    rest = trace.filter(~pl.col("sequence").is_in(used))
    change = rest[int(np.argmax(np.abs(rest["entropy_total"].to_numpy())))].row(0, named=True)
    assert (found[4].sequence, found[4].position) == (change["sequence"], change["position"])
    assert cards_data.excerpts(trace.sample(fraction=1, shuffle=True, seed=1), tables["tokens"], strings, seed=4) == (
        found,
        activation,
        entropy,
    )


def test_excerpts_are_the_text_and_shade_counted_positions_only(
    tables: dict[str, pl.DataFrame], world: fake_tables.World
) -> None:
    trace = tables["traces"].filter(pl.col("neuron") == world.entropy[1])
    strings = tables["token_strings"]["string"].to_list()
    for excerpt in cards_data.excerpts(trace, tables["tokens"], strings)[0]:
        row = tables["tokens"].filter(pl.col("sequence") == excerpt.sequence).row(0, named=True)
        start = max(0, excerpt.position - cards_data.BEFORE)
        peak = next(i for i, token in enumerate(excerpt.tokens) if token.peak)
        assert start + peak == excerpt.position
        values = trace.filter(pl.col("sequence") == excerpt.sequence)
        for place, token in enumerate(excerpt.tokens, start):
            assert token.text == strings[row["tokens"][place]]
            assert (token.activation is not None) == row["counted"][place]
            if row["counted"][place]:
                own = values.filter(pl.col("position") == place)
                assert token.activation == own["activation"].item()
                assert token.entropy_change == own["entropy_total"].item()


def test_shades_grow_with_the_value_and_end() -> None:
    levels = [cards_html.level(value, 2.0) for value in np.linspace(0, 3, 50)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, cards_style.LEVELS)
    assert cards_html.level(-2.0, 2.0) == cards_style.LEVELS
    assert cards_html.level(1.0, 0.0) == 0


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [cards_style.ACTIVE, cards_style.INACTIVE, cards_style.RAISED, cards_style.LOWERED])
def test_text_is_readable_on_every_shade(colour: tuple[int, int, int]) -> None:
    ink = _luminance(cards_style.INK)
    ratios = [
        (_luminance(cards_style.tint(colour, level)) + 0.05) / (ink + 0.05)
        for level in range(1, cards_style.LEVELS + 1)
    ]
    assert min(ratios) >= 4.5  # WCAG AA
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, cards_svg.MISSING),
        (0.0, "0"),
        (1.0, "1.00"),
        (12.34, "12.3"),
        (-0.01234, f"{cards_svg.MINUS}0.0123"),
        (1234.5, "1,234"),
        (0.00012345, f"1.23e{cards_svg.MINUS}4"),
        (2.5e7, "2.50e7"),
    ],
)
def test_numbers(value: float | None, expected: str) -> None:
    assert cards_svg.number(value) == expected


def test_a_histogram_draws_the_filled_bins_and_the_mean() -> None:
    drawing = cards_svg.histogram([0, 5, 100, 1], -1.0, 3.0, 0.5)
    heights = [float(size) for size in re.findall(r"v-([\d.]+)h", drawing)]
    assert len(heights) == 3
    assert heights[1] == max(heights)
    assert "106 activations" in drawing
    assert "mean 0.500" in drawing
    assert "constant" in cards_svg.histogram([7], 2.0, 2.0, 2.0)


def test_neurons_of_earlier_layers_and_missing_ratios_get_a_card(paths: dict[str, Path], tmp_path: Path) -> None:
    tables = fake_tables.fake_tables(fake_tables.World(n_neurons=160, d_model=64))
    early = tables["selection"].filter(pl.col("set") == "entropy").head(1).with_columns(layer=pl.lit(0, pl.Int32))
    write_table(early, tmp_path / "selection.parquet", "selection")
    page = write(paths, tmp_path / "cards.html", selection=tmp_path / "selection.parquet")
    assert "only neurons of the last layer" in page
    assert "No activation statistics" in page
    silent = tables["effects"].filter(pl.col("m_loss").is_null())["neuron"][0]
    chosen = tables["selection"].filter(pl.col("set") == "entropy").head(1)
    chosen = chosen.with_columns(neuron=pl.lit(silent, pl.Int32))
    write_table(chosen, tmp_path / "silent.parquet", "selection")
    assert cards_svg.MISSING in write(paths, tmp_path / "silent.html", selection=tmp_path / "silent.parquet")


def test_no_selection_gives_a_page_that_says_so(paths: dict[str, Path], tmp_path: Path) -> None:
    empty = pl.DataFrame(schema={name: spec.dtype for name, spec in SCHEMAS["selection"].items()})
    write_table(empty, tmp_path / "selection.parquet", "selection")
    page = write(paths, tmp_path / "cards.html", selection=tmp_path / "selection.parquet")
    outline(page)
    assert "No neuron is selected" in page


def test_a_replacement_that_was_not_run_is_refused(paths: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CardsError, match=r"effects\.parquet.*'zero', only mean.*ablation\.replacements"):
        write(paths, tmp_path / "cards.html", replacement="zero")
    assert not list(tmp_path.iterdir())
