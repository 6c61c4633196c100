#include "identity_options.h"

#include <CLI/CLI.hpp>

namespace minivmm {

void IdentityOptions::add_to(CLI::App& app) {
  const auto list = [&app](const char* option, std::vector<std::string>& to, const char* help) {
    return app.add_option(option, to, help)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  const std::string identity = "Identity";
  app.add_option("--uuid", uuid, "The machine's UUID (default: one that is the same at each start)")
      ->type_name("UUID")
      ->group(identity);
  app.add_option("--serial-number", serial_number, "The system's serial number in SMBIOS (default: the UUID)")
      ->type_name("TEXT")
      ->group(identity);
  list("--oem-string", oem_strings, "A string of SMBIOS type 11 for the guest; repeatable")
      ->type_name("TEXT")
      ->group(identity);
  list("--set-credential", set_credentials, "A credential for the guest's systemd; repeatable")
      ->type_name("NAME:TEXT")
      ->group(identity);
  list("--load-credential", load_credentials, "The same from a file; repeatable")
      ->type_name("NAME:PATH")
      ->group(identity);

  const std::string first_boot = "First boot";
  app.add_option("--cloud-init", cloud_init,
                 "cloud-init's user-data, on a disk that is made for it; settings: meta-data=FILE, "
                 "network-config=FILE, vendor-data=FILE, instance-id=TEXT, hostname=NAME")
      ->type_name("FILE[,SETTING...]")
      ->group(first_boot);
  list("--ssh-key", ssh_keys, "Public SSH keys for the image's default user, by cloud-init; repeatable")
      ->type_name("FILE")
      ->group(first_boot);
}

void IdentityOptions::fill_in(MachineConfig& config) const {
  if (uuid) config.set_uuid(*uuid);
  config.serial_number = serial_number;
  config.oem_strings = oem_strings;
  for (const std::string& spec : set_credentials) config.set_credential(spec);
  for (const std::string& spec : load_credentials) config.load_credential(spec);
  if (cloud_init) config.cloud_init.parse(*cloud_init);
  config.cloud_init.ssh_keys = ssh_keys;
}

}  // namespace minivmm
