"""Convert a workflow as the page saves it (version 0.4, no subgraphs) to the prompt that the server runs."""

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
PAGE_ONLY = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute"}
PASS_THROUGH = {"Reroute"}
MUTED, BYPASSED = 2, 4


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """API prompt `{id: {"class_type", "inputs"}}` of a workflow.

    A muted node is left out with the links that leave it; a bypassed one and a reroute hand on their
    input of the same type; notes vanish; a primitive node's value is the one its target's widget holds.

    Args:
        workflow: nodes, links and widgets_values as saved by the page.
        object_info: the server's /object_info, for the names and the order of the widgets.
    Raises:
        ValueError: a node type is not in `object_info`.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    origins = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt = {}
    for node in nodes.values():
        if node["type"] in PAGE_ONLY or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] not in object_info:
            raise ValueError(f"node {node['id']}: the server does not know {node['type']!r}")
        inputs = _widget_values(node, object_info[node["type"]]["input"])
        for entry in node.get("inputs", []):
            origin = _resolve(entry.get("link"), nodes, origins)
            if origin:
                inputs[entry["name"]] = [str(origin[0]), origin[1]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _resolve(link, nodes: dict, origins: dict):
    """(node id, output slot) that really feeds `link`, or None."""
    if link not in origins:
        return None
    node_id, slot = origins[link]
    node = nodes[node_id]
    if node["type"] in PASS_THROUGH or node.get("mode", 0) == BYPASSED:
        return _resolve(_bypass_link(node, slot), nodes, origins)
    if node["type"] in PAGE_ONLY or node.get("mode", 0) == MUTED:
        return None
    return node_id, slot


def _bypass_link(node: dict, slot: int):
    """The link of the input that stands in for an output: the same slot if its type fits, else the first that fits."""
    inputs = node.get("inputs", [])
    if node["type"] in PASS_THROUGH:
        return inputs[0].get("link")
    wanted = node["outputs"][slot]["type"]
    for entry in inputs[slot : slot + 1] + inputs:
        if entry["type"] == wanted:
            return entry.get("link")
    return None


def _widget_values(node: dict, schema: dict) -> dict:
    """Widget name -> value; what the workflow does not hold gets its default, if it has one."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        names = [name for group in ("required", "optional") for name in schema.get(group, {})]
        return {name: saved[name] for name in names if name in saved}
    return dict(_pair_widgets(schema, iter(saved), prefix=""))


def _pair_widgets(schema: dict, values, prefix: str):
    """Yield (name, value) in the page's order; a dynamic combo's own inputs follow it as `name.input`."""
    for group in ("required", "optional"):
        for name, spec in schema.get(group, {}).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            if not _is_widget(kind, options):
                continue
            value = next(values, options.get("default"))
            if value is not None:
                yield prefix + name, value
            if kind == DYNAMIC_COMBO:
                chosen = [option["inputs"] for option in options["options"] if option["key"] == value]
                for inputs in chosen:
                    yield from _pair_widgets(inputs, values, f"{prefix}{name}.")
            if _has_companion(name, kind, options):
                next(values, None)


def _is_widget(kind, options: dict) -> bool:
    return (isinstance(kind, list) or kind in WIDGET_TYPES or kind == DYNAMIC_COMBO) and not options.get("forceInput")


def _has_companion(name: str, kind, options: dict) -> bool:
    """Whether the page saves a value of its own after this widget: control_after_generate or an upload button."""
    seed = kind == "INT" and name in ("seed", "noise_seed")
    return seed or any(options.get(flag) for flag in ("control_after_generate", "image_upload", "video_upload", "audio_upload"))
