"""What is asked for: the files of every figure, its place in the report, and the results of every study.

Needs: the look-ups of `common.smk`. Makes nothing; the rules of all stages name their figures by it.
"""


def in_report(path, caption):
    """A figure's svg with its caption and place in the report, and its other formats beside it."""
    shown = caption.replace("_", " ") + (" ({kind})" if "{kind}" in path else "")
    if "{comparison}" in path:
        category, subcategory, labels = "Comparisons", "{comparison}", {}
    else:
        category, subcategory = "Confidence regulation", "{model}"
        labels = {
            "model": "{model}",
            "text": "{text}" if "{text}" in path else "weights alone",
        }
    svg = report(
        f"{path}.svg",
        caption=f"captions/{caption}.rst",
        category=category,
        subcategory=subcategory,
        labels={**labels, "figure": shown},
    )
    return [svg, *(f"{path}.{suffix}" for suffix in FORMATS if suffix != "svg")]


def figure_files(path):
    return [f"{path}.{suffix}" for suffix in FORMATS]


# The figures of a model on a text, by the part of study A that makes them; without a part, always.
FIGURES = {
    None: [
        "overview",
        "total_direct",
        "rho_mediation",
        "entropy_prediction",
        "synthetic_controls",
        "verification",
        "unigram_kl",
        "token_effects",
        "example_passage",
    ],
    "token_frequency": ["token_frequency"],
    "sets": ["temperature", "calibration"],
    "dose_response": ["dose_response"],
    "induction": [
        "induction_profile_synthetic",
        "induction_profile_natural",
        "induction_ablation_synthetic",
        "induction_ablation_natural",
        "induction_scores",
    ],
    "heads": ["induction_heads", "head_ablation", "head_neurons"],
}


def confidence_regulation_results():
    """Figures and cards of study A for every configured model and text."""
    study, wanted = config["confidence_regulation"], []
    figures = [
        figure
        for name, group in FIGURES.items()
        if not name or part(name)
        for figure in group
    ]
    for model in study["models"]:
        weights = ["norm_logitvar", "singular_values"]
        if published_name(config["models"][base_model(model)], model):
            weights.append("published")
        wanted += [
            file
            for figure in weights
            for file in figure_files(f"results/{model}/weights/figures/{figure}")
        ]
        for text in study["texts"]:
            base = f"results/{model}/texts/{text}"
            here = [
                *figures,
                *(
                    ["reference_kl"]
                    if part("sets") and model in study["references"]
                    else []
                ),
            ]
            wanted += [
                file
                for figure in here
                for file in figure_files(f"{base}/figures/{figure}")
            ]
            wanted += [
                f"{base}/frequency_cosine.parquet",
                *([f"{base}/cards.html"] if study["cards"] else []),
            ]
    return wanted


def comparison_results():
    """Figures of every configured comparison."""
    return [
        file
        for name in config["comparisons"]
        for figure in ("emergence", "models", "spectra")
        for file in figure_files(f"results/comparison/{name}/figures/{figure}")
    ]
