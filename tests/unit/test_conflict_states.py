"""States at the end of conflict prompts against hooked float64 passes; METHODS B's defects that could recur here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conflict_files import ConflictFiles, write_conflicts
from neuronlab.ablation import LastLayer
from neuronlab.conflict_prompts import Conflicts
from neuronlab.conflict_states import StateRows, competitors, prompt_entropies, read_states
from neuronlab.conflict_tables import inspected
from neuronlab.copying_variants import read_groups
from neuronlab.last_layers import last_layer_of
from neuronlab.models import Model
from neuronlab.prompt_batches import LastState, read_prompts
from neuronlab.replacements import ActivationStatistics
from neuronlab.variant_groups import VariantGroup

LAYOUTS = ("gpt2", "gpt_neox", "llama", "gemma2")
SHAPE = {"batch_size": 3, "tokens_per_chunk": 4, "seed": 0}  # small, so that batches and chunks end everywhere


class Case:
    """A tiny model with its conflict prompts and groups."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.model = model
        self.last = last_layer_of(model, kernel="torch")
        self.files: ConflictFiles = write_conflicts(folder, model, synthetic=not model.has_post_mlp_norm)
        self.conflicts = Conflicts.of_frame(self.files.table("conflicts"))
        layer = ActivationStatistics.of_layer(self.files.table("statistics"), self.last.layer, self.last.neurons)
        self.groups = read_groups(self.files.table("sets"), self.files.table("variants"), layer)
        self.inspected = inspected(self.groups, self.files.table("variants"))

    def root(self, prompts: Sequence[Sequence[int]] | None = None) -> LastState:
        """All prompts in one padded batch."""
        return read_prompts(self.model, self.conflicts.prompts if prompts is None else prompts).state

    def states(self, **shape: int) -> StateRows:
        return self.states_of(self.last, self.conflicts, self.root(), self.inspected, **shape)

    def states_of(
        self, last: LastLayer, conflicts: Conflicts, root: LastState, groups: Sequence[VariantGroup], **shape: int
    ) -> StateRows:
        objects = conflicts.counter_ids, conflicts.answer_ids
        return read_states(self.model, last, root, conflicts.prompts, *objects, groups, **{**SHAPE, **shape})

    def log_probs(self, tokens: Sequence[int], variant: int) -> torch.Tensor:
        """At every position, by a hooked pass over one unpadded sequence."""
        found = [(g, row) for g in self.groups for row, v in enumerate(g.variants) if v == variant]
        replacing = None
        if found:
            ((one, row),) = found
            replacing = self.last.layer, list(one.neurons), torch.from_numpy(one.values[row])
        return self.model.logits(torch.tensor([list(tokens)]), replacing)[0].log_softmax(-1)


@pytest.fixture(scope="module")
def case(tiny_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    made: dict[tuple[str, str], Case] = {}

    def make(name: str, dtype: str = "float64") -> Case:
        if (name, dtype) not in made:
            made[name, dtype] = Case(tmp_path_factory.mktemp(name), tiny_model(name, dtype))
        return made[name, dtype]

    return make


def rows_of(rows: StateRows, route: str) -> np.ndarray:
    return np.flatnonzero(np.array(rows.route) == route)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_entropies_log_probs_and_whole_objects_are_those_of_hooked_passes(
    layout: str, case: Callable[..., Case]
) -> None:
    here = case(layout)
    rows, conflicts = here.states(), here.conflicts
    entropies = prompt_entropies(here.last, here.root(), here.groups, tokens_per_chunk=3, seed=0)
    lengths = {len(ids) for ids in conflicts.counter_ids + conflicts.answer_ids}
    assert {1, 2, 3} <= lengths
    checked = 0
    for r in [*rows_of(rows, "clean"), *rows_of(rows, "total")]:
        p, variant = rows.prompt[r], int(rows.variant[r])
        prompt, objects = conflicts.prompts[p], (conflicts.counter_ids[p], conflicts.answer_ids[p])
        lp = here.log_probs(prompt, variant)[-1]
        entropy = float(-(lp.exp() * lp).sum())
        assert rows.entropy[r] == pytest.approx(entropy, rel=1e-6, abs=1e-6)
        assert entropies[p, variant] == pytest.approx(entropy, rel=2e-6, abs=2e-6)
        wanted = [float(lp[objects[0][0]]), float(lp[objects[1][0]]), float(lp[rows.nd_token[r]])]
        np.testing.assert_allclose(rows.log_probs[r], wanted, rtol=1e-6, atol=2e-6)
        assert rows.top_token[r] == int(lp.argmax())
        for kind, ids in enumerate(objects):
            whole = here.log_probs([*prompt, *ids], variant)[len(prompt) - 1 : -1]
            wanted = float(whole[torch.arange(len(ids)), ids].sum())
            assert rows.object_log_probs[r, kind] == pytest.approx(wanted, rel=1e-6, abs=4e-6)
        checked += 1
    assert checked == len(conflicts) * (1 + 2 * 4)  # the clean model, two selections, four replacements
    partial = [*rows_of(rows, "direct"), *rows_of(rows, "norm")]
    assert len(partial) == 2 * (checked - len(conflicts))
    assert np.isnan(rows.object_log_probs[partial]).all()


def test_entropies_cover_controls_and_doses(case: Callable[..., Case]) -> None:
    here = case("gpt2")
    entropies = prompt_entropies(here.last, here.root(), here.groups, tokens_per_chunk=128, seed=0)
    variants = here.files.table("variants")
    assert entropies.shape == (len(here.conflicts), len(variants))
    assert np.isfinite(entropies).all()
    own = variants.filter(variants["kind"] != "synthetic")["variant"].to_list()
    for p, prompt in enumerate(here.conflicts.prompts):
        for variant in own:
            lp = here.log_probs(prompt, variant)[-1]
            assert entropies[p, variant] == pytest.approx(float(-(lp.exp() * lp).sum()), rel=2e-6, abs=2e-6)


def test_padding_changes_nothing(case: Callable[..., Case]) -> None:
    """B defect 5: entropies and log-probabilities of padded rows saw the pads and had other positions."""
    for layout in LAYOUTS:
        here = case(layout)
        together = here.states()
        for p in range(len(here.conflicts)):
            mine = Conflicts(*([getattr(here.conflicts, name)[p]] for name in Conflicts.__dataclass_fields__))
            alone = here.states_of(here.last, mine, here.root(mine.prompts), here.inspected, batch_size=1)
            same = together.prompt == p
            for name in ("entropy", "log_probs", "object_log_probs"):
                ours = getattr(together, name)[same]
                np.testing.assert_allclose(ours, getattr(alone, name), rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(together.nd_token[same], alone.nd_token)


def test_log_prob_of_a_label_is_its_objects_not_the_maximum(case: Callable[..., Case]) -> None:
    """B defect 7: rows labelled CK or PK got the largest log-probability in place of their object's."""
    here = case("gpt2")
    conflicts = here.conflicts
    # Objects that no one would say: the least likely token after each prompt.
    least = [[int(here.log_probs(prompt, 0)[-1].argmin())] for prompt in conflicts.prompts]
    mine = Conflicts(conflicts.numbers, conflicts.prompts, least, conflicts.answer_ids, ["x"] * 7, ["y"] * 7)
    rows = here.states_of(here.last, mine, here.root(), here.inspected)
    clean = rows_of(rows, "clean")
    for r in clean:
        lp = here.log_probs(conflicts.prompts[rows.prompt[r]], 0)[-1]
        assert rows.log_probs[r, 0] == pytest.approx(float(lp.min()), rel=1e-6)
        assert rows.log_probs[r, 0] < float(lp.max()) - 1


def test_competitor_is_the_same_token_before_and_after(case: Callable[..., Case]) -> None:
    """B defect 7: the runner-up was looked for before and after, and could be another token."""
    here = case("gpt_neox")
    rows, conflicts = here.states(), here.conflicts
    moved = 0
    for p, prompt in enumerate(conflicts.prompts):
        same = rows.prompt == p
        assert len(set(rows.nd_token[same].tolist())) == 1
        nd = int(rows.nd_token[same][0])
        firsts = {conflicts.counter_ids[p][0], conflicts.answer_ids[p][0]}
        assert nd not in firsts
        order = [t for t in here.log_probs(prompt, 0)[-1].argsort(descending=True).tolist() if t not in firsts]
        assert nd == order[0]
        for variant in {int(v) for g in here.inspected for v in g.variants}:
            after = [
                t for t in here.log_probs(prompt, variant)[-1].argsort(descending=True).tolist() if t not in firsts
            ]
            moved += after[0] != nd
    assert moved  # there are variants whose own runner-up is another token


def test_b_defect_9_the_objects_go_and_token_0_stays(case: Callable[..., Case]) -> None:
    """The top token was to be left out, but index 0 was: here both objects are on top, and token 0 comes next."""
    here = case("gpt2")
    conflicts = here.conflicts
    best = [here.log_probs(prompt, 0)[-1].argsort(descending=True).tolist() for prompt in conflicts.prompts]
    first, second = ([[ids[place]] for ids in best] for place in (0, 1))
    mine = Conflicts(conflicts.numbers, conflicts.prompts, first, second, ["x"] * 7, ["y"] * 7)
    rows = here.states_of(here.last, mine, here.root(), here.inspected)
    assert [best[p][2] for p in rows.prompt] == rows.nd_token.tolist()
    likely = SimpleNamespace(lp=torch.tensor([[-1.0, -0.5, -2.0, -3.0]]))
    assert competitors(likely, torch.tensor([1]), torch.tensor([2])).tolist() == [0]


def test_objects_that_share_their_first_token_have_a_competitor_all_the_same(case: Callable[..., Case]) -> None:
    here = case("llama")
    conflicts = here.conflicts
    mine = Conflicts(
        conflicts.numbers, conflicts.prompts, conflicts.answer_ids, conflicts.answer_ids, ["x"] * 7, ["x"] * 7
    )
    rows = here.states_of(here.last, mine, here.root(), here.inspected)
    np.testing.assert_array_equal(rows.log_probs[:, 0], rows.log_probs[:, 1])
    firsts = np.array([ids[0] for ids in conflicts.answer_ids])
    assert (rows.nd_token != firsts[rows.prompt]).all()


def test_first_token_ids_are_those_of_the_table(case: Callable[..., Case]) -> None:
    """B defect 6: ids came from the text anew, a BOS or a bare space for every row; here the table's are taken."""
    here = case("gpt2")
    conflicts = here.conflicts
    other = [[90 + p] for p in range(7)]  # not what the objects' texts would encode to
    mine = Conflicts(conflicts.numbers, conflicts.prompts, other, conflicts.answer_ids, ["zz"] * 7, ["y"] * 7)
    rows = here.states_of(here.last, mine, here.root(), here.inspected)
    for r in rows_of(rows, "clean"):
        p = rows.prompt[r]
        assert rows.log_probs[r, 0] == pytest.approx(
            float(here.log_probs(conflicts.prompts[p], 0)[-1, 90 + p]), rel=1e-6
        )


def test_nothing_selected_and_no_prompts(case: Callable[..., Case]) -> None:
    """Without selections the clean model's rows are left; without prompts, none."""
    here = case("gpt2")
    rows = here.states_of(here.last, here.conflicts, here.root(), [])
    assert list(rows.route) == ["clean"] * 7
    assert np.isfinite(rows.object_log_probs).all()
    nobody = Conflicts([], [], [], [], [], [])
    root = here.root()
    empty = LastState(root.residual[:0], root.activations[:0])
    assert len(here.states_of(here.last, nobody, empty, here.inspected).route) == 0
    assert prompt_entropies(here.last, empty, here.groups, tokens_per_chunk=4, seed=0).shape[0] == 0


def test_chunks_and_batches_change_nothing_but_rounding(case: Callable[..., Case]) -> None:
    here = case("gpt2", "float32")
    small, large = here.states(), here.states(batch_size=100, tokens_per_chunk=1000)
    for name in ("entropy", "log_probs", "object_log_probs"):
        np.testing.assert_allclose(getattr(small, name), getattr(large, name), rtol=1e-5, atol=1e-5)
