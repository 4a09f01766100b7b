"""Training an ONNX file: fine-tuning against the original's outputs, and group sparse training.

    settings      what a user may choose
    batches       samples in random order, some of them held out
    augment       more images out of those that there are
    features      tensors of the original that a pruned model's are compared with
    objective     what is minimised
    penalties     what drives groups of weights to zero
    judging       how well the held-out samples are met
    workers       several processes, each with a part of every batch
    checkpoints   where a run that was stopped goes on
    loop          one run, from the first step to the best weights

Everything here needs torch (`pip install 'onnxprune[torch]'`); nothing outside of it and of
`gradients` does, and both are imported only when they are asked for.
"""
