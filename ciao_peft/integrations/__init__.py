"""What other libraries need to work with ours: a module for each, imported when it is asked for and by nothing else.

`ciao_peft.integrations.transformers` makes transformers' `Auto` classes, `pipeline` and `Trainer` know our folders and
models; where transformers' `Auto` classes are there already, `import ciao_peft` does the same.
`ciao_peft.integrations.sklearn` has an estimator. `ciao_peft.integrations.peft` tells peft what our folders are.

Example:
    >>> import ciao_peft.integrations.transformers
    >>> from transformers import AutoConfig
    >>> AutoConfig.for_model("ciao").model_type
    'ciao'
"""
