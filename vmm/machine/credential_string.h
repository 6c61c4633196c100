// systemd's credentials as SMBIOS type 11 strings (smbios-type-11(7)).
#pragma once

#include <string>
#include <string_view>

namespace minivmm {

// Throws ConfigError, which begins with `option`, where systemd would not take the name.
void check_credential_name(std::string_view option, std::string_view name);

// "io.systemd.credential:NAME=TEXT", or with base64 what is no plain line of ASCII.
std::string credential_string(std::string_view name, std::string_view content);

}  // namespace minivmm
