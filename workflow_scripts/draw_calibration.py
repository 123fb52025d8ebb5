"""Rule `draw_calibration`."""

from neuronlab.figures.calibration import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        calibration=snakemake.input.calibration,
        reliability=snakemake.input.reliability,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
