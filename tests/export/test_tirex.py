"""TiRex: random weights of the true class as a graph of the published form, against tirex-ts."""

import numpy as np
import onnx
import pytest
import torch
from tirex.models.slstm.cell import sLSTMCell
from tirex.models.tirex import TiRexZero

from tessera_export.graph import storage, tracing
from tessera_onnx import TesseraTimeSeries

pytestmark = pytest.mark.export

LEVELS = [i / 10 for i in range(1, 10)]


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Upstream rounds the cells to bfloat16, for which ONNX Runtime has no product on a CPU."""

    def forward(cell, values, state):
        size = cell.config
        bias = cell._bias_.reshape(size.num_heads, size.num_gates, size.head_dim)
        return cell._impl_forward_torch(
            values.reshape(*values.shape[:2], -1),
            state,
            cell._recurrent_kernel_,
            bias.permute(1, 0, 2).reshape(-1),
        )

    monkeypatch.setattr(sLSTMCell, "_impl_torch", forward)


class Published(torch.nn.Module):
    """What tirex.onnx takes and gives: padding, scaling and the model in one graph.

    ONNX has no nanmean, so the moments are those of the known values.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, context):
        """(b, t) to (b, 32, 9)."""
        size = self.model.config.train_ctx_len
        known = torch.nn.functional.pad((~torch.isnan(context)).float(), (size, 0))[:, -size:]
        values = torch.nn.functional.pad(torch.nan_to_num(context), (size, 0))[:, -size:]
        count = known.sum(1, keepdim=True).clamp(min=1)
        loc = (values * known).sum(1, keepdim=True) / count
        scale = (((values - loc) * known).square().sum(1, keepdim=True) / count).sqrt()
        scale = torch.where(scale == 0, loc.abs() + 1e-5, scale)
        patch = self.model.config.input_patch_size
        scaled = ((values - loc) / scale * known).view(-1, size // patch, patch)
        mask = known.view(-1, size // patch, patch)
        found = self.model._forward_model(torch.cat([scaled, mask], dim=2))[:, -1]
        return (found * scale + loc).view(-1, 9, 32).transpose(1, 2)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(2)
    model = TiRexZero(
        "torch",
        {
            "input_patch_size": 32,
            "output_patch_size": 32,
            "quantiles": LEVELS,
            "block_kwargs": {"num_blocks": 2, "embedding_dim": 16, "num_heads": 2},
            "input_ff_dim": 24,
        },
        train_ctx_len=2048,
    )
    with torch.no_grad():
        for each in model.parameters():  # upstream's are empty until it loads a checkpoint
            each.copy_(torch.randn_like(each) * 0.3)
    return model.eval()


def rows():
    rng = np.random.default_rng(4)
    made = [3 + np.sin(np.arange(n) / 9) + rng.normal(0, 0.2, n) for n in (1, 31, 300, 2048, 2500)]
    made[2][100:180] = np.nan
    made[3] *= 1e4
    return [row.astype(np.float32) for row in [*made, np.full(64, 5.0)]]


def test_a_graph_of_true_weights_forecasts_as_upstream(weights, tmp_path):
    axes = {"context": {0: "batch", 1: "values"}, "quantiles": {0: "batch"}}
    example = {"context": torch.linspace(-1, 1, 200).view(2, 100)}
    traced = tracing.trace_legacy(Published(weights).eval(), example, ["quantiles"], axes)
    assert isinstance(traced, onnx.ModelProto)
    storage.save(traced, tmp_path / "tirex.onnx")
    contexts = rows()
    with TesseraTimeSeries(path=tmp_path) as model:
        for horizon in (20, 100):
            found = model.forecast_quantiles(contexts, horizon)
            quantiles, mean = weights.forecast(
                [torch.from_numpy(row) for row in contexts], prediction_length=horizon
            )
            for i, context in enumerate(contexts):
                want = np.sort(quantiles[i].numpy())
                size = max(np.abs(want).max(), np.nanmax(np.abs(context)))
                np.testing.assert_allclose(found[i], want, rtol=0, atol=1e-4 * size)
                if (np.diff(quantiles[i]) >= 0).all():  # upstream sorts no levels that cross
                    median = model.forecast(context, horizon)[0]
                    np.testing.assert_allclose(median, mean[i], rtol=0, atol=1e-4 * size)
