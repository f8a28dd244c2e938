"""What is said about an operator that has no rule: why, where there is a reason of principle, and what to do instead."""

from __future__ import annotations

from lepton_compiler.errors import UnsupportedError

RANDOM = "it draws random numbers"
SEQUENCES = "it works on sequences of tensors, lepton's values are tensors"
OPTIONALS = "it works on optional values, lepton's values are tensors"
TEXT = "it works on text"
MAPS = "it works on maps, lepton's values are tensors"
TRAINING = "it belongs to training"

PRINCIPLES: dict[str, str] = (
    dict.fromkeys("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split(), RANDOM)
    | dict.fromkeys(
        "ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap "
        "SplitToSequence".split(),
        SEQUENCES,
    )
    | {"Optional": OPTIONALS, "ImageDecoder": "it decodes files (JPEG, PNG, ...), which is no tensor arithmetic"}
    | dict.fromkeys("RegexFullMatch StringConcat StringNormalizer StringSplit CategoryMapper".split(), TEXT)
    | dict.fromkeys("CastMap DictVectorizer ZipMap".split(), MAPS)
    | dict.fromkeys("Adagrad Adam Gradient Momentum".split(), TRAINING)
)
"""Operator to the reason why none of its versions can be imported."""

HINTS = {
    RANDOM: "make the random numbers an input of the model",
    TEXT: "convert text to numbers outside the model",
    MAPS: "end the model before it; skl2onnx leaves ZipMap out with the option zipmap=False",
    TRAINING: "export the model for inference",
    PRINCIPLES["ImageDecoder"]: "decode images outside the model, and feed it their pixels",
}


def unsupported(domain: str, op_type: str, version: int) -> UnsupportedError:
    """The error about an operator that cannot be imported."""
    reason = PRINCIPLES.get(op_type)
    text = f"operator {domain + '.' if domain else ''}{op_type} (opset {version}) is not supported"
    if reason is None:
        return UnsupportedError(text, hint="replace it by supported operators, or add a rule for it: see docs/adding_an_op.md")
    return UnsupportedError(f"{text}: {reason}", hint=HINTS.get(reason, "replace it by operators on tensors"))
