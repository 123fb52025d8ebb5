"""Look-ups that the rules of study C share. No science here.

Needs: the look-ups of `common.smk`. Makes nothing.
"""

STAGES = config["stages_of_inference"]
LAYERS = f"{TEXT}/layers"
OVERLAY = "results/stages/{text}"


def stage_part(name):
    """Whether a part of study C is asked for."""
    return name in STAGES["parts"]


def of_stage(name, path):
    """A table of a part of study C: no input where that part is switched off."""
    return path if stage_part(name) else []


def of_stage_models(path):
    """One table of all models of study C, in their order."""
    return expand(path, model=STAGES["models"], allow_missing=True)
