"""Training's element-wise steps for a CPU, by way of fast.c: the same results as model.py's within bfloat16, in less time."""
import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace

import torch

SOURCE = Path(__file__).with_name("fast.c")
FLAGS = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]


def load(folder):
    """The compiled kernels as a set of ops for model.forward, or None where there is no C compiler."""
    library = Path(folder) / "fast.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["cc", *FLAGS, str(SOURCE), "-o", str(library), "-lm"], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return make_ops(ctypes.CDLL(str(library)))


def make_ops(lib):
    def call(name, *args):
        """Tensors go as pointers (they must be contiguous), floats as float, ints as long."""
        kinds = {torch.Tensor: lambda a: ctypes.c_void_p(a.data_ptr()), float: ctypes.c_float, int: ctypes.c_long}
        assert all(not isinstance(a, torch.Tensor) or a.is_contiguous() for a in args)
        getattr(lib, name)(*[kinds[torch.Tensor if isinstance(a, torch.Tensor) else type(a)](a) for a in args])

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, eps, dtype):
            x = x.contiguous()
            y, scale = torch.empty_like(x, dtype=torch.bfloat16), x.new_empty(x.numel() // x.shape[-1])
            call("norm", x, w, eps, y, scale, scale.numel(), x.shape[-1])
            ctx.save_for_backward(x, w, scale)
            return y

        @staticmethod
        def backward(ctx, dy):
            x, w, scale = ctx.saved_tensors
            dx, dw = torch.empty_like(x), torch.zeros_like(w)
            call("norm_back", x, w, scale, dy.contiguous(), dx, dw, scale.numel(), x.shape[-1])
            return dx, dw, None, None

    class SwiGLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx, g, u):
            y = torch.empty_like(g)
            call("swiglu", g, u, y, g.numel())
            ctx.save_for_backward(g, u)
            return y

        @staticmethod
        def backward(ctx, dy):
            g, u = ctx.saved_tensors
            dg, du = torch.empty_like(g), torch.empty_like(u)
            call("swiglu_back", g, u, dy.contiguous(), dg, du, g.numel())
            return dg, du

    class Rotate(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, cos, sin, sign=1.0):
            ctx.tables = cos, sin
            x = x.contiguous()
            y = torch.empty_like(x)
            batch, time, heads, width = x.shape
            call("rotate", x, cos, sin, sign, y, batch * time, time, heads, width // 2)
            return y

        @staticmethod
        def backward(ctx, dy):
            return Rotate.forward(ctx, dy, *ctx.tables, -1.0), None, None, None

    class Softmax(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, starts):
            y = torch.empty_like(scores)
            call("softmax", scores, starts, y, starts.shape[0], scores.numel() // starts.numel() // scores.shape[-1], scores.shape[-1])
            ctx.save_for_backward(y, starts)
            return y

        @staticmethod
        def backward(ctx, dy):
            y, starts = ctx.saved_tensors
            dx = torch.empty_like(y)
            call("softmax_back", y, dy.contiguous(), starts, dx, starts.shape[0], y.numel() // starts.numel() // y.shape[-1], y.shape[-1])
            return dx, None

    class CrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, target):
            loss, ctx.grad = logits.new_empty(len(target), dtype=torch.float32), torch.empty_like(logits)
            call("cross_entropy", logits, target, loss, ctx.grad, *logits.shape)
            return loss

        @staticmethod
        def backward(ctx, dloss):
            return ctx.grad * dloss[:, None].bfloat16(), None

    def mask(batch, time, past, parts, device, dtype):
        """Where each place's part begins, [B, T]."""
        parts = torch.zeros(batch, time, dtype=torch.int64) if parts is None else parts.contiguous()
        return torch.searchsorted(parts, parts).to(torch.int32)

    return SimpleNamespace(norm=Norm.apply, swiglu=SwiGLU.apply, rotate=Rotate.apply, mask=mask, softmax=Softmax.apply,
                           cross_entropy=CrossEntropy.apply)
