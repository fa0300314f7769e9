#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda_sim/cuda_sim.h"
#include "device/cuda_driver.h"

namespace sllm::testing {

// The simulated driver, whose library is in this process once: its settings and what it counted.
class Simulation {
 public:
  static const Simulation& get() {
    static const Simulation simulation;
    return simulation;
  }

  void configure(const std::string& settings) const {
    ASSERT_EQ(configure_(settings.c_str()), 0) << settings;
  }
  bool understands(const std::string& settings) const { return configure_(settings.c_str()) == 0; }
  long long count(const std::string& name) const { return count_(name.c_str()); }
  std::string report() const {
    std::string text(report_(nullptr, 0) + 1, '\0');
    report_(text.data(), text.size());
    return text.c_str();
  }

  // Nothing is left, nothing was done that must not be.
  void expect_clean() const {
    for (const char* name :
         {"violations", "contexts", "streams", "events", "allocations", "opened", "registrations",
          "reservations", "placements", "handles", "entered", "allocated_bytes"}) {
      EXPECT_EQ(count(name), 0) << name << " in " << report();
    }
  }

 private:
  Simulation() {
    void* library = ::dlopen(CUDA_SIM_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(library, nullptr) << ::dlerror();
    configure_ = reinterpret_cast<decltype(configure_)>(::dlsym(library, "sllm_cuda_sim_configure"));
    count_ = reinterpret_cast<decltype(count_)>(::dlsym(library, "sllm_cuda_sim_count"));
    report_ = reinterpret_cast<decltype(report_)>(::dlsym(library, "sllm_cuda_sim_report"));
  }

  decltype(&sllm_cuda_sim_configure) configure_;
  decltype(&sllm_cuda_sim_count) count_;
  decltype(&sllm_cuda_sim_report) report_;
};

// A test over the simulated driver that ends as clean as it began.
class SimulatedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    simulation_.configure("devices=2");
    driver_ = CudaDriver::load(CUDA_SIM_LIBRARY);
  }
  void TearDown() override {
    simulation_.expect_clean();
    simulation_.configure("");
  }

  const Simulation& simulation_ = Simulation::get();
  std::shared_ptr<const CudaDriver> driver_;
};

// What a function throws, or a failure.
template <typename Function>
Error error_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

inline bool says(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

}  // namespace sllm::testing
