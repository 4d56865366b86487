// The Python module aspis._C: objects that an operator schema cannot carry. Ops need none of it:
// they are torch.ops.aspis.* as soon as libaspis_ops is loaded, which importing this module does.
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <map>
#include <optional>
#include <string>

#include "core/error.h"
#include "models/language_model.h"
#include "ops/op_table.h"

namespace aspis::bindings {
namespace {

namespace py = pybind11;

nn::Segments segments(const std::optional<at::Tensor>& seq_idx,
                      const std::optional<at::Tensor>& cu_seqlens) {
  return {.seq_idx = seq_idx, .cu_seqlens = cu_seqlens};
}

std::unique_ptr<models::LanguageModel> make_model(const std::string& config, uint64_t seed,
                                                  const std::string& device) {
  auto model = std::make_unique<models::LanguageModel>(
      models::load_model_config(config), at::TensorOptions().dtype(at::kFloat).device(device));
  if (device != "meta") model->initialise(seed);
  return model;
}

std::map<std::string, at::Tensor> parameters(const models::LanguageModel& model) {
  std::map<std::string, at::Tensor> out;
  for (const nn::NamedParameter& parameter : model.parameters()) {
    out[parameter.name] = parameter.tensor;
  }
  return out;
}

void bind(py::module_& m) {
  m.attr("version") = ops::ops_library_version();
  m.attr("torch_version") = TORCH_VERSION;
  py::class_<models::LanguageModel>(m, "LanguageModel")
      .def(py::init(&make_model), py::arg("config"), py::arg("seed") = 1, py::arg("device") = "cpu")
      .def("parameters", &parameters)
      .def(
          "forward",
          [](const models::LanguageModel& model, const at::Tensor& tokens,
             const std::optional<at::Tensor>& seq_idx,
             const std::optional<at::Tensor>& cu_seqlens) {
            py::gil_scoped_release release;
            return model.forward(tokens, segments(seq_idx, cu_seqlens));
          },
          py::arg("tokens"), py::arg("seq_idx") = py::none(), py::arg("cu_seqlens") = py::none())
      .def(
          "loss",
          [](const models::LanguageModel& model, const at::Tensor& tokens,
             const at::Tensor& targets, const std::optional<at::Tensor>& seq_idx,
             const std::optional<at::Tensor>& cu_seqlens) {
            py::gil_scoped_release release;
            return model.loss(tokens, targets, segments(seq_idx, cu_seqlens));
          },
          py::arg("tokens"), py::arg("targets"), py::arg("seq_idx") = py::none(),
          py::arg("cu_seqlens") = py::none())
      .def("logits", [](const models::LanguageModel& model, const at::Tensor& hidden) {
        py::gil_scoped_release release;
        return model.logits(hidden);
      });
}

}  // namespace
}  // namespace aspis::bindings

PYBIND11_MODULE(_C, m) {
  aspis::bindings::bind(m);
}
