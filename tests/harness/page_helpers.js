// What the browser tests do inside the page, as `window.tests`.
window.tests = {
  /** Adds the nodes of an API prompt, with its names as titles. Returns name -> node id. */
  build(prompt) {
    const nodes = {};
    Object.entries(prompt).forEach(([name, { class_type, inputs }], index) => {
      const node = LiteGraph.createNode(class_type);
      node.title = name;
      node.pos = [420 * (index % 4), 560 * Math.floor(index / 4)];
      app.graph.add(node);
      nodes[name] = node;
      for (const [key, value] of Object.entries(inputs)) {
        if (!Array.isArray(value)) node.widgets.find((widget) => widget.name === key).value = value;
      }
      const next = node.widgets?.find((widget) => widget.name === "control_after_generate");
      if (next) next.value = "fixed"; // the seed stays as it is from run to run
    });
    for (const [name, { inputs }] of Object.entries(prompt)) {
      for (const [key, value] of Object.entries(inputs)) {
        if (!Array.isArray(value)) continue;
        const slot = nodes[name].inputs.findIndex((input) => input.name === key);
        nodes[value[0]].connect(value[1], nodes[name], slot);
      }
    }
    return Object.fromEntries(Object.entries(nodes).map(([name, node]) => [name, String(node.id)]));
  },

  /** The node of an id such as "9:2". */
  node(id) {
    const path = String(id).split(":");
    const last = path.pop();
    let graph = app.rootGraph ?? app.graph;
    for (const part of path) graph = graph.getNodeById(part).subgraph;
    return graph.getNodeById(last);
  },

  /** Widget name -> value. */
  values(id) {
    const widgets = tests.node(id).widgets.filter((widget) => widget.serialize !== false);
    return Object.fromEntries(widgets.map((widget) => [widget.name, widget.value]));
  },

  /** The lines of text on an element. */
  lines(element) {
    return element.innerText.replaceAll("\u00a0", " ").split("\n").filter((line) => line.trim());
  },

  /** Names of the widgets that a hand cannot change: by the inputs of a Vue node, else by what the canvas finds there. */
  greyed(id) {
    const node = tests.node(id);
    const isGreyed = ({ name, y }) => {
      const input = document.querySelector(`[data-node-id="${id}"] [aria-label="${name}"] input`);
      if (document.querySelector(`[data-node-id="${id}"]`)) return Boolean(input?.disabled);
      return !node.getWidgetOnPos(node.pos[0] + node.size[0] / 2, node.pos[1] + y + 10);
    };
    return node.widgets.filter(isGreyed).map((widget) => widget.name);
  },

  /** The element of the panel under a node. */
  panelElement(id) {
    return tests.node(id).widgets.find((widget) => widget.type === "sparse_videogen_panel")?.element;
  },

  /** The lines that the panel under a node shows; null without one. */
  panel(id) {
    const element = tests.panelElement(id);
    return element?.checkVisibility() ? tests.lines(element) : null;
  },

  /** Queues the graph and waits for its end: [event, detail] of it and the outputs of its nodes. */
  async run() {
    const outputs = {};
    const ends = ["execution_success", "execution_error", "execution_interrupted"];
    const executed = ({ detail }) => (outputs[detail.display_node ?? detail.node] = detail.output);
    app.api.addEventListener("executed", executed);
    try {
      const ended = new Promise((resolve) => {
        for (const kind of ends) app.api.addEventListener(kind, ({ detail }) => resolve([kind, detail]), { once: true });
      });
      await app.queuePrompt(0);
      const [kind, detail] = await ended;
      return { kind, detail, outputs };
    } finally {
      app.api.removeEventListener("executed", executed);
    }
  },

  /** Dispatches what the server would send. */
  send(kind, detail) {
    app.api.dispatchEvent(new CustomEvent(`sparse_videogen.${kind}`, { detail }));
  },

  /** A node's rectangle in the window, its title included, and the foot that Vue nodes have. */
  box(id) {
    const element = document.querySelector(`[data-node-id="${id}"]`);
    if (element) {
      const boxes = [element, ...element.querySelectorAll("button")].map((part) => part.getBoundingClientRect());
      const { x, y, width } = boxes[0];
      return { x, y, width, height: Math.max(...boxes.map((box) => box.bottom)) - y };
    }
    const { pos, size } = tests.node(id);
    const { scale } = app.canvas.ds;
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    const [x, y] = tests.inWindow(pos[0], pos[1] - title);
    return { x, y, width: size[0] * scale, height: (size[1] + title) * scale };
  },

  /** A place on the canvas in the window. */
  inWindow(x, y) {
    const { scale, offset } = app.canvas.ds;
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    return [left + (x + offset[0]) * scale, top + (y + offset[1]) * scale];
  },

  /** The middle of a widget in the window, on the classic canvas. */
  widgetPoint(id, name) {
    const node = tests.node(id);
    const widget = node.widgets.find((candidate) => candidate.name === name);
    return tests.inWindow(node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10);
  },

  /** Moves the canvas so that a node stands in the middle of the window. */
  centre(id) {
    const node = tests.node(id);
    const { width, height } = app.canvas.canvas.getBoundingClientRect();
    app.canvas.ds.scale = 1;
    const [x, y] = [0, 1].map((axis) => node.pos[axis] + node.size[axis] / 2);
    app.canvas.ds.offset = [width / 2 - x, height / 2 - y];
    app.canvas.setDirty(true, true);
  },
};
