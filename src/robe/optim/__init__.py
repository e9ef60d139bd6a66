"""Optimizers of embeddings: of the shared array, without a gradient of its size, and of tables of rows.

Give ``SGD``, ``Adagrad`` or ``Adam`` the embeddings and your own optimizer everything else::

    array_optimizer = robe.optim.Adagrad(model.embedding, lr=0.05)
    dense_optimizer = torch.optim.Adam(robe.optim.other_parameters(model), lr=1e-3)
    for dense, ids, labels in batches:
        loss(model(dense, ids), labels).backward()
        for optimizer in (array_optimizer, dense_optimizer):
            optimizer.step()
            optimizer.zero_grad()

While such an optimizer lives, the backward of a lookup records ids and gradients of embeddings, and ``array.grad``
stays None. ``step()`` sums them and updates the array in one pass, in which SGD without momentum and Adagrad (both
without weight decay) visit only the slots that have a gradient; on CUDA only SGD does.

They are subclasses of torch.optim's, with their arguments, state, state dicts and results (to rounding), and work
with learning-rate schedulers. Without a kernel for the array's device and dtype they make the dense gradient and call
torch's step. Three things differ. ``step()`` uses up what was recorded, so a forgotten ``zero_grad()`` does not count
gradients twice. ``model.zero_grad()`` does not know of recorded gradients: to drop a batch, call
``optimizer.zero_grad()``. What reads ``array.grad`` (gradient clipping, GradScaler, DistributedDataParallel) needs
``materialize_grads()`` first, or torch.optim.

``SparseAdam`` is torch's, for tables of rows with ``sparse=True``: ``nn.EmbeddingBag`` and the like.
"""

from robe.optim.arrays import SGD as SGD
from robe.optim.arrays import Adagrad as Adagrad
from robe.optim.arrays import Adam as Adam
from robe.optim.arrays import arrays_of as arrays_of
from robe.optim.arrays import other_parameters as other_parameters
from robe.optim.tables import SparseAdam as SparseAdam
