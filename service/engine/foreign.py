"""Foreign names: those of PyTorch, Keras, scikit-learn and textbooks, and the names of this service for them.

Each foreign name is declared once, in the table of its kind. Requests cannot use it: the error of an unknown name says
what to write instead. Names are compared as `fold` leaves them, so `BatchNorm1d`, `batch_norm_1d`
and `nn.BatchNorm1d` are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Foreign(NamedTuple):
    """The counterpart of a foreign name: its own names for the same thing, and a note on what differs."""

    here: tuple[str, ...]
    """Names of this service, the likeliest first; empty if it has no such thing: then the note says what to do."""
    note: str = ""
    """A sentence about what differs."""


def fold(name: str) -> str:
    """Return the letters and digits of a name in lower case, so that different spellings of a name are equal. Of a call
    or a path, such as `torch.nn.ReLU()`, only the last name counts."""
    name = name.split("(")[0].rsplit(".", 1)[-1]
    return "".join(character for character in name.casefold() if character.isalnum())


def _table(*rows: tuple[str, str, str] | tuple[str, str]) -> Mapping[str, Foreign]:
    """Return a table from folded foreign names to what this service has for them. Each row has foreign names and names
    of this service, both separated by spaces, and perhaps a note."""
    table: dict[str, Foreign] = {}
    for names, here, *note in rows:
        for name in map(fold, names.split()):
            if name in table:
                raise ValueError(f"{name!r} is declared twice")
            table[name] = Foreign(tuple(here.split()), *note)
    return table


FOREIGN: Mapping[str, Mapping[str, Foreign]] = {
    "layer": _table(
        ("Linear FullyConnected FC Affine Perceptron LazyLinear Hidden HiddenLayer Output OutputLayer InnerProduct",
         "dense", "Its inputs are inferred, so in_features has no place; out_features is 'units'."),
        ("MLP MLPClassifier MLPRegressor FeedForward FFN", "dense", "Write one layer for each row of neurons."),
        ("Sequential Model Functional Module ModuleList", "", "Write the layers one after the other in 'layers'."),
        ("Input InputLayer", "", "The inputs need no layer: leave it out, or write 'input_shape' beside 'layers'."),
        ("Conv Convolution Conv2dLayer Convolution2D", "conv2d"),
        ("Convolution1D", "conv1d"),
        ("Convolution3D", "conv3d"),
        ("SeparableConv SeparableConvolution2D", "separable_conv2d"),
        ("ConvTranspose1d", "conv1d_transpose"),
        ("ConvTranspose3d", "conv3d_transpose"),
        ("ConvTranspose2d Deconv Deconvolution Deconv2d TransposedConv", "conv2d_transpose"),
        ("DepthwiseConv", "depthwise_conv2d"),
        ("BatchNorm BatchNorm1d BatchNorm2d BatchNorm3d BN SyncBatchNorm", "batch_normalization",
         "Its features are inferred."),
        ("LayerNorm LN", "layer_normalization", "Its shape is inferred."),
        ("GroupNorm InstanceNorm InstanceNorm1d InstanceNorm2d", "group_normalization"),
        ("RMSNorm", "rms_normalization"),
        ("Dropout1d Dropout2d Dropout3d FeatureDropout", "spatial_dropout"),
        ("FeatureAlphaDropout", "alpha_dropout"),
        ("RNN ElmanRNN Recurrent RNNCell SimpleRNNCell", "simple_rnn", "hidden_size is 'units'."),
        ("LSTMCell LongShortTermMemory", "lstm", "hidden_size is 'units'."),
        ("GRUCell", "gru", "hidden_size is 'units'."),
        ("BiLSTM BiRNN BiGRU", "bidirectional"),
        ("EmbeddingBag WordEmbedding Embed", "embedding", "num_embeddings is 'input_dim', embedding_dim 'output_dim'."),
        ("Flat Flattening Unflatten View", "flatten reshape"),
        ("MaxPool MaxPool2d MaxPooling Pooling Pool2d Pool", "max_pooling2d"),
        ("MaxPool1d", "max_pooling1d"),
        ("AvgPool AvgPool2d AveragePool2D AvgPooling", "average_pooling2d"),
        ("AvgPool1d AveragePool1D", "average_pooling1d"),
        ("AdaptiveAvgPool2d GlobalAvgPool GlobalAvgPool2D GAP GlobalAveragePooling", "global_average_pooling2d"),
        ("AdaptiveAvgPool1d GlobalAvgPool1D", "global_average_pooling1d"),
        ("AdaptiveMaxPool2d GlobalMaxPool GlobalMaxPool2D", "global_max_pooling2d"),
        ("AdaptiveMaxPool1d GlobalMaxPool1D", "global_max_pooling1d"),
        ("MHA SelfAttention TransformerEncoderLayer", "multi_head_attention"),
        ("Concat Cat Merge Stack", "concatenate"),
        ("Sum Plus Residual Skip SkipConnection", "add"),
        ("Mul Product", "multiply"),
        ("Mean Avg", "average"),
        ("Upsample UpsamplingBilinear2d UpsamplingNearest2d", "up_sampling2d"),
        ("ZeroPad2d Pad", "zero_padding2d"),
        ("Transpose", "permute"),
        ("Repeat", "repeat_vector"),
        ("Noise", "gaussian_noise"),
        ("NonLinearity", "activation"),
    ),
    "activation": _table(
        ("None null no nothing id lin Purelin", "linear"),
        ("Sigmoidal sig logsig Sigma expit", "sigmoid"),
        ("tansig hyperbolictangent tanhyperbolic", "tanh"),
        ("Rectifier RectifiedLinear RectifiedLinearUnit", "relu"),
        ("LReLU", "leaky_relu"),
        ("RReLU", "leaky_relu", "Its slope 'alpha' is not random."),
        ("sigmoidlinearunit", "silu"),
        ("gaussianerrorlinearunit", "gelu"),
        ("NewGELU QuickGELU GELUApproximate", "gelu_tanh"),
        ("Softmax2d softargmax normalizedexponential", "softmax"),
        ("Threshold binarystep Hardlim unitstep", "step"),
        ("signum sgn", "sign"),
        ("GLU SwiGLU", "", "Gated units halve the features; build one of two dense layers and 'multiply'."),
    ),
    "loss": _table(
        ("CrossEntropyLoss CrossEntropy CE xent NLLLoss NLL NegativeLogLikelihood SparseCrossEntropy "
         "SparseCategoricalCrossEntropyLoss SoftmaxCrossEntropy SoftmaxCrossEntropyWithLogits",
         "sparse_categorical_crossentropy",
         "It takes class indices; for raw scores add \"from_logits\": true. One-hot targets take "
         "'categorical_crossentropy'."),
        ("BCELoss BinaryCrossEntropyLoss LogLoss LogisticLoss", "binary_crossentropy"),
        ("BCEWithLogitsLoss BCEWithLogits SigmoidCrossEntropy", "binary_crossentropy",
         'Send {"type": "binary_crossentropy", "from_logits": true}.'),
        ("MultiLabelSoftMarginLoss", "binary_crossentropy"),
        ("MSELoss L2Loss L2 QuadraticLoss SquaredLoss LeastSquares SE SSE RMSE RootMeanSquaredError "
         "neg_mean_squared_error",
         "mean_squared_error"),
        ("L1 AbsoluteError AbsLoss LAD", "mean_absolute_error"),
        ("SmoothL1Loss", "smooth_l1"),
        ("HuberLoss", "huber"),
        ("KLDivLoss KLDiv KLD KL KLLoss", "kl_divergence"),
        ("PoissonNLLLoss PoissonNLL", "poisson"),
        ("CosineEmbeddingLoss CosineProximity CosineLoss Cosine", "cosine_similarity"),
        ("HingeLoss HingeEmbeddingLoss SVM MaxMargin MarginLoss SoftMarginLoss", "hinge"),
        ("CategoricalCrossEntropyLoss", "categorical_crossentropy"),
    ),
    "optimizer": _table(
        ("GD GradientDescent VanillaGD BatchGradientDescent StochasticGradientDescent Steepest", "sgd"),
        ("SGDM SGDMomentum Heavyball", "momentum"),
        ("NAG NesterovMomentum NesterovAcceleratedGradient", "nesterov"),
        ("AdaptiveMomentEstimation SparseAdam FusedAdam Adam8bit", "adam"),
        ("BFGS", "l_bfgs"),
        ("NewtonRaphson NewtonsMethod Newton-CG", "newton"),
        ("LineSearch", "exact_line_search"),
        ("Resilient ResilientBackpropagation", "rprop"),
        ("ASGD FTRL Adafactor LAMB LARS", "adam", "This rule is not here; that is the nearest in use."),
    ),
    "schedule": _table(
        ("StepLR Step StepSchedule", "step_decay", "step_size is 'decay_steps'."),
        ("MultiStepLR", "multi_step"),
        ("ExponentialLR ExpLR", "exponential"),
        ("CosineAnnealingLR CosineLR CosineDecaySchedule", "cosine", "T_max is 'decay_steps', eta_min 'minimum'."),
        ("SGDR WarmRestarts", "cosine_restarts"),
        ("LinearLR LinearDecay LinearWarmup", "linear"),
        ("Warmup WarmupLR", "constant", "A warm-up is the option 'warmup_steps' of every schedule."),
        ("ConstantLR", "constant_factor"),
        ("PolynomialLR Poly", "polynomial"),
        ("OneCycleLR 1cycle SuperConvergence", "one_cycle"),
        ("CyclicLR CLR Triangular", "cyclic"),
        ("ReduceLROnPlateau", "plateau"),
        ("TimeDecay TimeBasedDecay InverseDecay InvScaling", "inverse_time"),
        ("LambdaLR", "piecewise_constant"),
        ("None null", "constant"),
    ),
    "initializer": _table(
        ("Glorot Xavier XavierInit", "glorot_uniform"),
        ("He Kaiming MSRA KaimingInit HeInit", "he_normal"),
        ("LeCun", "lecun_normal"),
        ("Zero ZerosInit", "zeros"),
        ("One", "ones"),
        ("Const Fill", "constant"),
        ("Gaussian Randn", "normal"),
        ("TruncatedNormal Trunc_Normal", "normal", 'Send {"type": "normal", "truncated": true}.'),
        ("Rand Random", "uniform"),
        ("Orthogonal_Init Orth", "orthogonal"),
        ("Identity Eye", "orthogonal"),
    ),
    "regularizer": _table(
        ("Lasso", "l1"),
        ("Ridge WeightDecay Tikhonov", "l2"),
        ("ElasticNet", "l1_l2"),
    ),
    "key": _table(
        # keys of a request
        ("X features samples data x_train train_x train_data input_data examples observations", "inputs points"),
        ("y labels label target y_true y_train train_y ground_truth truth expected desired outputs_true answers",
         "targets"),
        ("xy", "points", "Send a list of points [x, y]."),
        ("weights params theta θ state_dict variables_values initial_weights coefs", "parameters at"),
        ("criterion loss_fn loss_function cost cost_function objective loss_type", "loss"),
        ("optim solver opt algorithm", "optimizer optimizers"),
        ("model net architecture nn arch", "network"),
        ("random_state random_seed rng manual_seed", "seed"),
        ("precision type_of_numbers float_type", "dtype"),
        ("class_weight", "class_weights", "It is an option of the loss: a list with one factor for each class."),
        ("train is_training mode train_mode", "training"),
        ("metrics callbacks verbose", "", "The answers tell losses and norms; other measures are left to you."),
        ("device gpu cuda backend", "", "The server computes where it runs; leave it out."),
        ("requires_grad create_graph retain_graph", "", "Gradients are always computed; leave it out."),
        ("validation_data val_data eval_set", "validation", 'Send {"inputs": …, "targets": …}.'),
        ("validation_split validation_fraction", "validation", 'Set samples apart: {"inputs": …, "targets": …}.'),
        ("early_stopping early_stop stopping tol n_iter_no_change", "stop",
         'Send {"patience": n} or {"loss_below": number}.'),
        ("num_epochs n_epochs epoch nb_epoch", "epochs"),
        ("iterations n_iter max_iter num_steps n_steps max_steps iters num_iterations iter", "steps"),
        ("bs minibatch minibatch_size batchsize batch", "batch_size"),
        ("scheduler lr_scheduler lr_schedule learning_rate_schedule", "schedule"),
        ("clipnorm grad_clip max_grad_norm gradient_clipping clipvalue global_clipnorm", "clip",
         'Send {"norm": number} or {"value": number}.'),
        ("history log record", "trace"),
        ("return outputs_wanted output returns fetch", "include"),
        ("loss_weight", "loss_weights"),
        ("checkpoint_data resume", "checkpoint"),
        # keys of a network
        ("hidden_layer_sizes hidden_layers hidden sizes layer_sizes layer_dims topology", "layers",
         'Send a list such as [{"type": "dense", "units": 3, "activation": "relu"}, {"type": "dense", "units": 1}].'),
        ("modules blocks stack nodes_list sequential", "layers"),
        ("input_size n_inputs in_shape shape batch_input_shape n_features_in", "input_shape"),
        ("output_layers", "outputs"),
        # options of layers
        ("in_features num_inputs in_channels num_features normalized_shape n_in fan_in in_dim input_dim", "",
         "It is inferred from the layer before; leave it out."),
        ("out_features out_channels output_size n_out out_dim hidden_size hidden_dim neurons n_neurons num_neurons "
         "nodes n_nodes num_nodes n_units num_units hidden_units num_hidden size width num_filters n_filters",
         "units filters output_dim"),
        ("num_embeddings vocab_size n_vocab num_tokens vocabulary", "input_dim"),
        ("embedding_dim embed_size embedding_size", "output_dim"),
        ("embed_dim head_dim d_model", "key_dim", "It is the size of one head."),
        ("n_heads nhead heads", "num_heads"),
        ("activation_fn activation_function act act_fn nonlinearity func transfer_function fn function", "activation"),
        ("class_name kind layer_type class layer", "type"),
        ("id label_name layer_name", "name"),
        ("bias has_bias with_bias", "use_bias"),
        ("initializer init weight_init kernel_init weight_initializer init_method", "kernel_initializer"),
        ("bias_init", "bias_initializer"),
        ("regularizer weight_regularizer kernel_reg l2_penalty reg regularization l2 l1", "kernel_regularizer",
         'Send {"l2": number} or {"l1": number}.'),
        ("stride step subsample", "strides"),
        ("pad", "padding"),
        ("dilation", "dilation_rate"),
        ("ksize kernel filter_size kernel_shape window", "kernel_size pool_size"),
        ("pool poolsize", "pool_size"),
        ("p prob probability drop_rate dropout_rate drop_prob keep_prob", "rate dropout"),
        ("elementwise_affine affine", "scale center"),
        ("from from_layers input_layer parents prev previous", "inputs"),
        ("share shared tied weight_sharing", "shares"),
        ("requires_gradient learnable trainable_weights", "trainable"),
        ("frozen_layers freeze fixed", "frozen trainable"),
        ("batch_first time_major", "", "Sequences are [samples, time, features]; leave it out."),
        ("num_layers n_layers depth", "", "Write one layer for each."),
        ("inplace", "", "It makes no difference to a gradient; leave it out."),
        ("negative_slope slope leak", "alpha"),
        ("scale_factor", "size"),
        ("dim dims_wanted", "axis axes dims"),
        # options of initializers
        ("stddev std stdev sigma sd", "standard_deviation"),
        ("minval low lower_bound", "minimum"),
        ("maxval high upper_bound", "maximum"),
        ("loc mu_of_normal", "mean"),
        ("val fill fill_value constant_value", "value"),
        # options of optimizers, schedules and losses
        ("lr η eta step_size learningrate learning_rate_init rate_of_learning eta0 alpha_rate init_lr base_lr",
         "learning_rate decay_steps"),
        ("alpha α", "learning_rate rho", "PyTorch's alpha of RMSprop is 'rho'."),
        ("eps ε fuzz", "epsilon"),
        ("betas", "beta_1", "They are two options: 'beta_1' and 'beta_2'."),
        ("beta b1 adam_beta1", "beta_1 momentum rho"),
        ("b2 adam_beta2", "beta_2"),
        ("mu mom m", "momentum"),
        ("wd l2_reg weightdecay decay_rate_of_weights", "weight_decay"),
        ("decay", "rho weight_decay gamma"),
        ("T_max decay_every period", "decay_steps"),
        ("eta_min min_lr lr_min end_lr", "minimum end_learning_rate"),
        ("max_lr", "max_learning_rate"),
        ("T_0", "first_decay_steps"),
        ("pct_start", "rising_part"),
        ("warmup num_warmup_steps", "warmup_steps"),
        ("drop drop_factor decay_factor", "gamma factor"),
        ("logits with_logits apply_softmax", "from_logits"),
        ("pos_weight", "positive_weight"),
        ("smoothing", "label_smoothing"),
        ("weight sample_weight instance_weight", "sample_weights class_weights"),
        # words of functions
        ("f formula expr equation func_expr fun", "expression"),
        ("vars wrt_variables symbols params_names", "variables"),
        ("x0 initial start_point initial_point init_point starting_point position", "starts start points"),
        ("coordinates location at_point", "points"),
        ("bounds domain limits region xlim", "box x"),
        ("grid_size n_points num_points", "resolution"),
    ),
    "parameter": _table(
        ("weight weights w coef theta coefs", "kernel gamma embeddings"),
        ("b biases intercept bias_weight beta0", "bias beta"),
        ("U W_h weight_hh weight_hh_l0 hidden_kernel", "recurrent_kernel"),
        ("W_x weight_ih weight_ih_l0", "kernel"),
        ("bias_ih bias_ih_l0 bias_hh bias_hh_l0", "bias"),
        ("running_mean mean", "moving_mean"),
        ("running_var var variance", "moving_variance"),
        ("embedding table lookup", "embeddings"),
        ("slope", "alpha"),
    ),
    "choice": _table(
        ("float double fp64 f64 float64_t number", "float64"),
        ("fp32 f32 single float16 half bfloat16 float32_t", "float32"),
        ("batchmean avg average sum_over_batch_size elementwise_mean", "mean"),
        ("total add", "sum"),
        ("no null", "none"),
        ("zero zeros full constant", "same"),
        ("nopadding", "valid"),
        ("NHWC NWC last", "channels_last"),
        ("NCHW NCW first", "channels_first"),
        ("weights weight params param grad grads", "parameters gradients"),
        ("input x", "inputs"),
        ("graph dot mermaid", "", "POST the same request to /v1/graph."),
        ("activations hidden intermediate", "layers"),
        ("output", "outputs"),
        ("hess", "hessian"),
        ("jac", "jacobian"),
        ("keras_style", "pytorch"),
        ("tensorflow tf", "keras"),
    ),
}  # fmt: skip
"""Tables by the kind of the named thing. Of a key or a choice, the first name counts that the place knows."""

NUMBERS: Mapping[str, str] = {"same": "for a number of zeros put a layer of the type zero_padding2d before it"}
"""The meaning of a number elsewhere, for a choice that has this word here."""

AFFIXES: Mapping[str, tuple[str, ...]] = {
    "layer": ("layer",),
    "activation": ("activation", "function", "layer", "unit"),
    "loss": ("loss", "error", "cost"),
    "optimizer": ("optimizer", "descent", "algorithm"),
    "schedule": ("schedule", "scheduler", "decay", "lr", "annealing"),
    "initializer": ("initializer", "initialization", "init"),
    "regularizer": ("regularizer", "regularization", "penalty", "norm"),
}
"""Words of the kind that callers append: AdamOptimizer is adam."""
