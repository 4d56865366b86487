#include "train/trained_model.h"

#include <nlohmann/json.hpp>

#include "checkpoint/run_checkpoint.h"
#include "core/error.h"

namespace aspis::train {

using config::Json;

TrainedModel load_trained_model(const std::filesystem::path& path, const std::string& device) {
  TrainedModel out{checkpoint::model_folder(path), {c10::Device("cpu"), ""}, nullptr, nullptr};
  const std::string config_name = (out.folder / "config.json").string();
  const Json config = checkpoint::read_config(out.folder);
  if (!config.is_object() || !config.contains("model")) {
    throw DataError(config_name + ": has no \"model\" section: not the checkpoint of a run");
  }
  const models::ModelConfig model =
      models::read_model_config(config["model"], config_name, "model");
  const models::LanguageModel on_paper(model, at::TensorOptions().device("meta"));
  out.device =
      choose_device(device, on_paper.ops_used(), model.backend() == nn::OpsBackend::kReference);
  out.model = std::make_unique<models::LanguageModel>(
      model, at::TensorOptions().dtype(at::kFloat).device(out.device.device));
  checkpoint::NamedTensors tensors;
  for (const nn::NamedParameter& parameter : out.model->parameters()) {
    tensors[parameter.name] = parameter.tensor.detach();
  }
  checkpoint::load_model_tensors(out.folder, tensors);
  const Json state = checkpoint::read_state(out.folder);
  if (!state.is_object() || !state.contains("tokenizer") || !state["tokenizer"].is_string()) {
    throw DataError((out.folder / "state.json").string() + ": names no tokenizer");
  }
  out.tokenizer = text::make_tokenizer(state["tokenizer"].get<std::string>());
  return out;
}

}  // namespace aspis::train
