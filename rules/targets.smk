"""What is asked for: the files of every figure, its place in the report, and the results of every study.

Needs: the look-ups of `common.smk`. Makes nothing; the rules of all stages name their figures by it.
"""


def in_report(path, caption):
    """A figure's svg with its caption and place in the report, and its other formats beside it."""
    shown = caption.replace("_", " ") + (" ({kind})" if "{kind}" in path else "")
    if "{comparison}" in path:
        category, subcategory, labels = "Comparisons", "{comparison}", {}
    elif path.startswith("results/stages/"):
        category, subcategory, labels = "Stages of inference", "all models", {}
    elif "/layers/" in path:
        category, subcategory = "Stages of inference", "{model}"
        labels = {"model": "{model}", "text": "{text}"}
    elif "{facts}" in path:
        category, subcategory = "Context copying", "{model}"
        labels = {"model": "{model}", "facts": "{facts}"}
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


# Study B: figures of the weights, and of a model on a knowledge base.
WEIGHT_FIGURES = [
    "selected_neurons",
    "singular_values",
    "norm_logitvar_layers",
    "layer_trends",
    "norm_distributions",
]
COPYING_FIGURES = [
    "class_counts",
    "activation_densities",
    "transition_scores",
    "conversion_ratios",
    "copying_bars",
    "transition_matrix",
    "copying_relations",
    "decision_boundaries",
    "log_ratio_changes",
    "flips",
]
COPYING_TABLES = [
    "transitions",
    "transition_counts",
    "global_scores",
    "selected_neurons",
    "examples",
]
COMPARED_TABLES = ["global_scores", "models"]


def table_files(folder, names):
    """Tables for papers, each as LaTeX and as HTML."""
    return [f"{folder}/{name}.{suffix}" for name in names for suffix in ("tex", "html")]


def tables_in_report(folder, names):
    """The same files; the HTML ones have a place in the report."""
    model = "{model}" if "{model}" in folder else "all models"
    files = []
    for name in names:
        shown = f"table: {name.replace('_', ' ')}"
        html = report(
            f"{folder}/{name}.html",
            category="Context copying",
            subcategory=model,
            labels={"model": model, "facts": "{facts}", "figure": shown},
        )
        files += [f"{folder}/{name}.tex", html]
    return files


def context_copying_results():
    """Figures and tables of study B for every configured model and knowledge base."""
    study = config["context_copying"]
    wanted = [
        table
        for facts in (study["facts"] if study["models"] else [])
        for table in table_files(f"results/copying/{facts}/tables", COMPARED_TABLES)
    ]
    for model in study["models"]:
        wanted += [
            file
            for figure in WEIGHT_FIGURES
            for file in figure_files(f"results/{model}/weights/figures/{figure}")
        ]
        figures = [*COPYING_FIGURES]
        if study["dose_response"]["points"]:
            figures.append("copying_doses")
        published = published_name(config["models"][base_model(model)], model)
        for facts in study["facts"]:
            base = f"results/{model}/facts/{facts}/knowledge"
            same = (
                published in COPYING_MODELS
                and config["facts"][facts]["source"] == "pararel"
            )
            wanted += [
                file
                for figure in [*figures, *(["published_copying"] if same else [])]
                for file in figure_files(f"{base}/figures/{figure}")
            ]
            wanted += table_files(f"{base}/tables", COPYING_TABLES)
    return wanted


# Study C: figures of a model on a text, by the part that makes them; of its weights; and of all models together.
LAYER_FIGURES = {
    "interventions": ["interventions", "swap_matrix"],
    "lens": ["lens", "lens_tokens"],
    "attention": ["local_attention"],
    "subjoiners": ["subjoiners", "subjoiner_examples"],
    "probes": ["probes"],
}
LAYER_WEIGHT_FIGURES = {
    "vocabulary": ["layer_neuron_counts", "strongest_neurons"],
    "features": ["feature_neurons"],
}
OVERLAYS = {
    "interventions": "interventions",
    "vocabulary": "layer_neuron_counts",
    "attention": "local_attention",
}


def stages_of_inference_results():
    """Figures of study C for every configured model and text, and of all models together."""
    study, wanted = config["stages_of_inference"], []
    parts = study["parts"]
    for model in study["models"]:
        base = f"results/{model}/weights/figures"
        wanted += [
            f"{base}/{figure}"
            for name in parts
            for figure in LAYER_WEIGHT_FIGURES.get(name, [])
        ]
        for text in study["texts"]:
            base = f"results/{model}/texts/{text}/layers/figures"
            wanted.append(f"{base}/stages")
            wanted += [
                f"{base}/{figure}"
                for name in parts
                for figure in LAYER_FIGURES.get(name, [])
            ]
    if len(study["models"]) > 1:
        for text in study["texts"]:
            base = f"results/stages/{text}/figures"
            wanted.append(f"{base}/stages")
            wanted += [f"{base}/{OVERLAYS[name]}" for name in parts if name in OVERLAYS]
    return [file for path in wanted for file in figure_files(path)]


def comparison_results():
    """Figures of every configured comparison."""
    return [
        file
        for name in config["comparisons"]
        for figure in ("emergence", "models", "spectra")
        for file in figure_files(f"results/comparison/{name}/figures/{figure}")
    ]
