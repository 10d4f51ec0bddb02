"""How a function becomes a node."""

NODE_CLASS_MAPPINGS = {}


def node(node_id: str, returns: str, optional: dict | None = None, output: bool = False, **required):
    """Makes a function the node of an id; inputs are given as the types of links, or as defaults."""

    def specs(given: dict) -> dict:
        kinds = {bool: "BOOLEAN", int: "INT", str: "STRING"}
        return {k: (v,) if str(v).isupper() else (kinds[type(v)], {"default": v}) for k, v in given.items()}

    inputs = {"required": specs(required), "optional": specs(optional or {})}

    def register(run):
        fields = {"FUNCTION": "run", "CATEGORY": "SVGDemo", "RETURN_TYPES": (returns,), "OUTPUT_NODE": output}
        fields |= {"INPUT_TYPES": classmethod(lambda cls: inputs), "run": staticmethod(run)}
        NODE_CLASS_MAPPINGS[node_id] = type(node_id, (), fields)
        return run

    return register


def patches_model(node_id: str):
    """Makes a function that changes the clone of a model the node of an id."""

    def register(change):
        @node(node_id, "MODEL", model="MODEL")
        def run(model):
            model = model.clone()
            change(model)
            return (model,)

        return change

    return register
