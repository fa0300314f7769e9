#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "native core of sllm_store; not a public interface";
  sllm::bind_base(module);
  sllm::bind_io(module);
  sllm::bind_memory(module);
  sllm::bind_load(module);
  sllm::bind_store(module);
  sllm::bind_pool_devices(module);
}
