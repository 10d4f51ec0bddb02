"""Everything that knows ComfyUI: the nodes, the model patch, the layout of each model family."""
