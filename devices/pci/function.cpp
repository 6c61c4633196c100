#include "devices/pci/function.h"

#include "devices/pci/bus.h"
#include "vmm/core/state.h"

namespace minivmm {

namespace {
constexpr uint16_t kFieldConfig = 1;
constexpr uint16_t kFieldMsix = 2;
}  // namespace

PciFunction::~PciFunction() {
  if (bus_ != nullptr) bus_->forget(*this);
}

void PciFunction::set_bar(unsigned bar, PciBarKind kind, uint64_t size, IoDevice& window) {
  config_.define_bar(bar, kind, size);
  windows_[bar] = &window;
}

void PciFunction::save_pci(StateWriter& w) const {
  w.group(kPciStateId, [this](StateWriter& group) {
    group.group(kFieldConfig, [this](StateWriter& inner) { config_.save(inner); });
    if (msix_ != nullptr) group.group(kFieldMsix, [this](StateWriter& inner) { msix_->save(inner); });
  });
}

Result<PciFunction::PciState> PciFunction::parse_pci(const StateReader& r) const {
  auto groups = r.groups(kPciStateId, 1);
  if (!groups) return std::unexpected(groups.error());
  if (groups->size() != 1) return fail(Errc::corrupt, "a saved PCI function has no PCI registers");
  const StateReader& group = groups->front();

  auto config_groups = group.groups(kFieldConfig, 1);
  if (!config_groups) return std::unexpected(config_groups.error());
  if (config_groups->size() != 1) return fail(Errc::corrupt, "a saved PCI function has no configuration");
  auto config = config_.parse(config_groups->front());
  if (!config) return std::unexpected(config.error());
  PciState state{std::move(*config), std::nullopt};

  auto msix_groups = group.groups(kFieldMsix, 1);
  if (!msix_groups) return std::unexpected(msix_groups.error());
  if (msix_groups->size() != (msix_ != nullptr ? 1 : 0))
    return fail(Errc::corrupt, "a saved PCI function differs in MSI-X");
  if (msix_ != nullptr) {
    auto msix = msix_->parse(msix_groups->front());
    if (!msix) return std::unexpected(msix.error());
    state.msix = std::move(*msix);
  }
  if (auto done = group.finish(); !done) return std::unexpected(done.error());
  return state;
}

void PciFunction::commit_pci(const PciState& state) {
  // First, so that enabling MSI-X delivers nothing that belonged to the state before.
  if (msix_ != nullptr) msix_->reset();
  config_.commit(state.config);
  if (msix_ != nullptr && state.msix) msix_->commit(*state.msix);
  if (bus_ != nullptr) bus_->function_loaded();
}

Result<void> PciFunction::load_pci(StateReader& r) {
  auto state = parse_pci(r);
  if (!state) return std::unexpected(state.error());
  if (auto done = r.finish(); !done) return done;
  commit_pci(*state);
  return {};
}

}  // namespace minivmm
