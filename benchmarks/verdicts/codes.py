"""For each mistake of the hand-written backward passes, the codes with which the service may name it."""

from __future__ import annotations


def _any(*codes: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset((code,)) for code in codes)


CODES: dict[str, tuple[frozenset[str], ...]] = {
    # The loss and its mean.
    "mean_forgotten": _any("mean_forgotten"),
    "mean_twice": _any("mean_doubled"),
    "mean_for_sum": _any("mean_instead_of_sum"),
    "outputs_counted": _any("mean_over_wrong_count"),
    "outputs_not_counted": _any("mean_over_wrong_count"),
    "error_reversed": _any("sign"),
    "loss_doubled": _any("factor_two"),
    "loss_halved": _any("factor_half"),
    "loss_weight_forgotten": _any("loss_weights_forgotten"),
    "softmax_omitted": _any("crossentropy_without_softmax", "activation_derivative_omitted"),
    "softmax_diagonal": _any("softmax_jacobian_diagonal"),
    "softmax_twice": _any("crossentropy_with_softmax_twice", "activation_derivative_doubled"),
    "sigmoid_omitted": _any("crossentropy_without_softmax", "activation_derivative_omitted"),
    "sigmoid_twice": _any("crossentropy_with_softmax_twice", "activation_derivative_doubled"),
    # Claims about a layer.
    "layer_negated": _any("sign"),
    "layer_doubled": _any("factor_two"),
    "layer_halved": _any("factor_half"),
    "layer_not_averaged": _any("mean_forgotten"),
    "kernel_transposed": _any("transposed"),
    "kernel_refilled": _any("reshaped", "transposed"),
    "kernel_flattened": _any("reshaped"),
    "kernel_axes_reversed": _any("axes_permuted", "transposed"),
    "kernel_outputs_first": _any("axes_permuted", "transposed"),
    "bias_as_column": _any("reshaped", "transposed"),
    "swapped_with_next": _any("tensors_swapped"),
    "query_and_key_swapped": _any("tensors_swapped"),
    # The bias.
    "bias_not_summed": _any("bias_not_summed"),
    "bias_of_first_sample": _any("bias_not_summed"),
    "bias_averaged": _any("bias_mean"),
    "bias_averaged_over_positions": _any("bias_mean"),
    "bias_summed_over_all": _any("bias_not_summed"),
    # Derivatives of activations.
    "derivative_omitted": _any("activation_derivative_omitted"),
    "derivative_at_output": _any("derivative_at_activation"),
    "derivative_of_output_at_z": _any("derivative_at_pre_activation"),
    "derivative_at_layer_before": _any("derivative_of_other_layer"),
    "derivative_at_layer_after": _any("derivative_of_other_layer"),
    "derivative_of_layer_before": _any("derivative_of_other_layer"),
    "derivative_of_layer_after": _any("derivative_of_other_layer"),
    "derivative_of_sigmoid": _any("derivative_of_other_activation", "derivative_of_other_layer"),
    "derivative_of_gates_omitted": _any("activation_derivative_omitted"),
    "derivative_of_cell_omitted": _any("activation_derivative_omitted"),
    "mask_after_own_gradients": _any("delta_before_masking"),
    "mask_forgotten_below": _any("delta_passed_on_before_derivative"),
    "updated_weights_0.1": _any("updated_weights"),
    "updated_weights_0.01": _any("updated_weights"),
    "updated_weights_0.5": _any("updated_weights"),
    # Layers with rules of their own.
    "dropout_forgotten": _any("dropout_mask_forgotten"),
    "dropout_twice": _any("dropout_mask_doubled"),
    "dropout_not_scaled": _any("dropout_scale_forgotten"),
    "regularizer_forgotten": _any("regularizer_forgotten"),
    "regularizer_twice": _any("regularizer_doubled"),
    "regularizer_without_its_two": _any("regularizer_halved"),
    "regularizer_averaged": _any("regularizer_averaged"),
    "statistics_constant": _any("normalization_statistics_constant"),
    "mean_constant": _any("normalization_mean_constant"),
    "variance_constant": _any("normalization_variance_constant"),
    "recurrence_cut": _any("recurrence_cut"),
    "recurrence_cut_after_two": _any("recurrence_cut"),
    "recurrence_cut_through_cell": _any("recurrence_path_forgotten"),
    "recurrence_cut_through_output": _any("recurrence_path_forgotten"),
    "recurrence_overwritten": _any("recurrence_overwritten"),
    "state_of_same_step": _any("state_of_same_step"),
    "recurrent_kernel_not_transposed": _any("kernel_not_transposed"),
    "scale_forgotten": _any("attention_scale_forgotten"),
    "kernel_not_flipped": _any("kernel_not_flipped"),
    "padding_lost_in_kernel": _any("padding_gradient_lost"),
    "padding_lost_below": _any("padding_gradient_lost"),
    "padding_cropped_at_end": _any("padding_gradient_lost"),
    "use_overwritten": _any("shared_use_forgotten"),
    # Samples.
    "last_sample_only": _any("stale_sample", "sample_left_out"),
    "first_sample_skipped": _any("sample_left_out"),
    "targets_of_sample_before": _any("shuffled_samples"),
    "targets_reversed": _any("shuffled_samples"),
    "sample_weights_forgotten": _any("sample_weights_forgotten"),
    "sample_weights_squared": _any("sample_weights_doubled"),
    "inputs_of_sample_before": _any("shuffled_samples", "stale_sample"),
}
"""By mistake: sets of codes, each of which says it."""
NOISE = frozenset(("float32_noise", "forward_differences", "central_differences", "kink_convention"))
"""Codes that say how a right claim was computed."""
BEYOND = frozenset(
    (
        "loss_weight_forgotten",
        "derivative_of_sigmoid",
        "bias_summed_over_all",
        "bias_of_first_sample",
        "dropout_not_scaled",
        "regularizer_averaged",
        "mean_constant",
        "variance_constant",
        "recurrence_cut_after_two",
        "recurrence_cut_through_cell",
        "recurrence_cut_through_output",
        "recurrence_overwritten",
        "state_of_same_step",
        "recurrent_kernel_not_transposed",
        "scale_forgotten",
        "use_overwritten",
        "first_sample_skipped",
        "sample_weights_forgotten",
        "sample_weights_squared",
        "layer_not_averaged",
        "query_and_key_swapped",
        "mask_forgotten_below",
    )
)
"""Mistakes beyond those that the service promises to know: counted apart."""
