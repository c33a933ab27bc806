"""What the Hub reads in a README.md: its YAML front matter, the tags drawn from it, and the faults it refuses."""

import re

import yaml

COLORS = "red yellow green blue indigo purple pink gray".split()
SDKS = "gradio streamlit docker static".split()
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)


def metadata(readme: str) -> dict:
    """The front matter of a card, {} when there is none; yaml.YAMLError or ValueError when it can't be read."""
    found = FRONT_MATTER.match(readme)
    data = (yaml.safe_load(found[1]) if found else None) or {}
    if not isinstance(data, dict):
        raise ValueError("front matter is not a mapping")
    return data


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def tags(card: dict) -> list[str]:
    found = [str(tag) for tag in as_list(card.get("tags"))]
    found += [card[key] for key in ("library_name", "pipeline_tag") if card.get(key)]
    for key, prefix in {"license": "license", "datasets": "dataset", "base_model": "base_model"}.items():
        found += [f"{prefix}:{value}" for value in as_list(card.get(key))]
    return list(dict.fromkeys(found))


def faults(readme: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Errors, for which the Hub refuses a card, and warnings."""
    try:
        card = metadata(readme)
    except (yaml.YAMLError, ValueError) as error:
        return [f"Invalid metadata in README.md: {error}"], []
    errors = []
    for key in ("tags", "datasets"):
        if not all(isinstance(value, str) for value in as_list(card.get(key))):
            errors.append(f'"{key}" must be a string or a list of strings')
    if repo_type == "space":
        if card and card.get("sdk") not in SDKS:
            errors.append(f'"sdk" must be one of [{", ".join(SDKS)}]')
        for key in ("colorFrom", "colorTo"):
            if key in card and card[key] not in COLORS:
                errors.append(f'"{key}" must be one of [{", ".join(COLORS)}]')
        if len(str(card.get("short_description", ""))) > 60:
            errors.append('"short_description" length must be less than or equal to 60 characters long')
    for i, model in enumerate(as_list(card.get("model-index"))):
        for j, result in enumerate(model.get("results", [])):
            at = f"model-index[{i}].results[{j}]"
            for part, keys in {"task": ["type"], "dataset": ["type", "name"]}.items():
                errors += [f'"{at}.{part}.{key}" is required' for key in keys if not result.get(part, {}).get(key)]
            for k, metric in enumerate(result.get("metrics", [])):
                errors += [f'"{at}.metrics[{k}].{key}" is required' for key in ("type", "value") if key not in metric]
    return errors, [] if card else ["empty or missing yaml metadata in repo card"]
