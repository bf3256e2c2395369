// SPDX-License-Identifier: Apache-2.0
// Builds a network written by peers_layers.py out of TensorFlow.js operators, with activations fused.

export function build(tf, description, data) {
  const tensors = new Map();
  for (const layer of description.layers) {
    layer.inputs.forEach((name, place) => {
      const found = description.tensors[name];
      if (found.offset === undefined || tensors.has(name)) return;
      const values = new Float32Array(data.buffer, data.byteOffset + found.offset, found.bytes / 4);
      tensors.set(name, place === 1 ? weight(tf, layer.kind, values, found.shape) : tf.tensor(values, found.shape));
    });
  }
  return (image) => tf.tidy(() => run(tf, description, new Map([...tensors, [description.inputs[0], image]])));
}

// As the operators want them: [h, w, in, out], [h, w, channels, 1], [in, out].
function weight(tf, kind, values, shape) {
  const tensor = tf.tensor(values, shape);
  if (kind === "dense") return tf.transpose(tensor, [1, 0]);
  return tf.transpose(tensor, kind === "conv" ? [1, 2, 3, 0] : [1, 2, 3, 0]);
}

const operators = {
  conv: (tf, [x, filter, bias], { stride: strides, relu6 }) =>
    tf.fused.conv2d({ x, filter, strides, pad: "same", bias, activation: relu6 ? "relu6" : "linear" }),
  depthwise: (tf, [x, filter, bias], { stride: strides, relu6 }) =>
    tf.fused.depthwiseConv2d({ x, filter, strides, pad: "same", bias, activation: relu6 ? "relu6" : "linear" }),
  dense: (tf, [a, b, bias]) => tf.fused.matMul({ a, b, bias }),
  add: (tf, [a, b]) => tf.add(a, b),
  mean: (tf, [x]) => tf.mean(x, [1, 2]),
};

function run(tf, description, tensors) {
  for (const layer of description.layers) {
    const inputs = layer.inputs.map((name) => tensors.get(name));
    tensors.set(layer.output, operators[layer.kind](tf, inputs, layer));
  }
  return tensors.get(description.output);
}
