"""What a conversion did, as a table to read and as JSON."""

from collections import Counter
from typing import Any, Optional

from mindone_vq.conversion.plan import Plan
from mindone_vq.conversion.write import target_dtype


def report(plan: Plan, dtype: Optional[str]) -> dict[str, Any]:
    """The components with their sizes, and every entry of the source that was left out, with the reason."""
    components = []
    for component in plan.components:
        types = Counter(target_dtype(tensor, dtype) for tensor in component.fitted.values())
        components.append(
            {
                "component": component.folder,
                "class": component.class_name,
                "tensors": len(component.fitted),
                "parameters": sum(tensor.size for tensor in component.fitted.values()),
                "dtypes": dict(types),
                "ignored": component.ignored,
            }
        )
    return {
        "pipeline": plan.pipeline.__name__ if plan.pipeline else None,
        "components": components,
        "ignored": plan.ignored,
        "objects_passed_over": sorted(plan.passed_over),
    }


def as_text(content: dict[str, Any]) -> str:
    """The report as a table."""
    rows = [("component", "class", "tensors", "parameters", "type")]
    for entry in content["components"]:
        types = ", ".join(entry["dtypes"]) or "-"
        row = (entry["component"], entry["class"], f"{entry['tensors']:,}", f"{entry['parameters']:,}", types)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for row in rows:
        cells = (cell.rjust(w) if i in (2, 3) else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        lines.append("  ".join(cells).rstrip())
    ignored = {**content["ignored"]}
    for entry in content["components"]:
        ignored.update(entry["ignored"])
    for reason, count in Counter(ignored.values()).items():
        example = next(key for key, value in ignored.items() if value == reason)
        lines.append(f"left out: {count} x {reason} ({example}{', ...' if count > 1 else ''})")
    if content["objects_passed_over"]:
        lines.append(f"objects passed over: {', '.join(content['objects_passed_over'])}")
    return "\n".join(lines)
