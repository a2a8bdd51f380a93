"""Engines: how the ranks of a job share a step. The training loop knows them by this contract alone.

An engine holds the method, its optimiser and the rank's part of their state, and offers

- `begin(share)`: a step begins, of which this rank does that share;
- `warm_up(batch)`: whatever has to happen with data before the first step and must leave no trace (rule 4);
- `forward(batch, last)`: loss and logs of one micro-batch of this rank, under the autocast of `precision.dtype`;
  `last` is true for its last of the step;
- `backward(loss, last)`: `loss` is the micro-batch's loss times its share of all samples of the step, over all ranks.
  After the last one, every rank holds (its part of) the **sum** over ranks and micro-batches, which is the gradient of
  the mean over the step's samples: nothing is divided by the number of ranks;
- `step() -> gradient norm`: clip and update, or skip the update on every rank where the gradient of any rank is not
  finite; counts that in `skipped` and `skipped_in_row`, on the device; leaves no gradient behind. The norm is that of
  the whole gradient before clipping, a scalar on the device, the same on all ranks;
- `gradient_is_finite(batch)`: of one micro-batch on this rank alone, with the weights as they are; for the message that
  ends a run of bad gradients, after which nothing follows;
- `network_state()`: the network's parameters in fp32, whole, and this rank's buffers; of a network that LoRA adapts,
  those that it keeps (`Network.kept_state`). Collective;
- `export_state()`: tensors keyed `model/` and `optim/<state>/` + parameter name, and JSON values, in the one format of
  all engines (rule 5): whole, never a shard. Collective; what other ranks than 0 return is not used, but for buffers;
- `import_state(state)`: put such a state back, whichever engine and number of ranks wrote it. Every rank is given the
  whole state with its own buffers in it. After it, training goes on bit-equal where engine and ranks are the same.

`make_engine` in `engine.py` chooses; an engine is one file, which offers `make` and `check`, and one line in
`masksup/config/components.py` (and its name in `masksup/config/schema.py`). Before anything is made,
`check(config, method, device, place)` refuses what the engine cannot do.
`ddp.py` is also the engine of a single process. Its sums are of two kinds: `ordered.py` adds in the tree of `tree.py`
(`parallel.sum: tree`), `ring.py` leaves the order to the library.
"""
