"""A node that looks at every plan of a run: who reads which tokens, and whether that is what was computed."""

import json

import torch

from .patches import during_a_run
from .registry import patches_model


@patches_model("SVGTestPlans")
def watch_plans(model) -> None:
    """Prints for each sparse call: video and text tokens; whether all rows are computed once; whether every row reads all
    text, and the text's rows all; whether something stands for keys that are not read; and where nothing does, the largest
    error of a row against float64 attention over the keys that it reads, as a share of the largest value.
    """
    layouts, plans = [], []

    def watched_attend(attend):
        def attend_and_tell(run, call, reason):
            plans.clear()
            layouts[:] = call.layouts
            out = attend(run, call, reason)
            if plans:
                print("sparse call:", json.dumps(_summary(layouts[0], plans)), flush=True)
            return out

        return attend_and_tell

    def watched_gather(gather):
        def gather_and_keep(q, k, v, plan, *, sm_scale, out, **kwargs):
            gather(q, k, v, plan, sm_scale=sm_scale, out=out, **kwargs)
            plans.append(_judge(layouts[0], q, k, v, plan, sm_scale, out))

        return gather_and_keep

    during_a_run(model, ".nodes.overrides", "attend", watched_attend)
    during_a_run(model, ".svg_core.attention", "gather_attention", watched_gather)


def _judge(layout, q, k, v, plan, sm_scale, out) -> dict:
    """Of one plan: rows of each head by their number, and the rest as in `watch_plans`."""
    text = set(range(layout.tokens)) - set(range(layout.video.start, layout.video.stop))
    read = text - set(layout.masked)
    everything, error, rows_of = set(range(layout.tokens)) - set(layout.masked), 0.0, []
    reads_text = text_reads_all = True
    for b, h in torch.cartesian_prod(*map(torch.arange, plan.list_of_head.shape)).tolist():
        s, seen = plan.list_of_head[b, h], []
        for t in range(plan.query_index.shape[1]):
            rows = plan.query_index[s, t]
            rows, start = rows[rows >= 0].long(), plan.key_start[s, t]
            keys = plan.key_index[start : start + plan.key_count[s, t]].long()
            listed = set(keys.tolist())
            seen += rows.tolist()
            reads_text &= read <= listed
            text_reads_all &= listed == everything or not text & set(rows.tolist())
            if plan.tail is None and len(rows):
                logits = sm_scale * q[b, h, rows].double() @ k[b, h, keys].double().T
                exact = logits.softmax(-1) @ v[b, h, keys].double()
                error = max(error, float((out[b, h, rows].double() - exact).abs().max() / v[b, h].abs().max()))
        rows_of.append(seen)
    return {
        "rows": rows_of,
        "reads_text": reads_text,
        "text_reads_all": text_reads_all,
        "tail": plan.tail is not None,
        "error": error,
    }


def _summary(layout, plans: list[dict]) -> dict:
    """Of a call, whose plans may be for some of its heads each: its rows are those of all, by so many heads as they make."""
    rows = sorted(row for plan in plans for head in plan["rows"] for row in head)
    heads = len(rows) // layout.tokens
    return {
        "video": layout.video_tokens,
        "text": layout.text_tokens,
        "once": rows == sorted(list(range(layout.tokens)) * heads),
        **{name: all(plan[name] for plan in plans) for name in ("reads_text", "text_reads_all")},
        "tail": any(plan["tail"] for plan in plans),
        "error": max(plan["error"] for plan in plans),
    }
