# Precompiled headers: what a file includes of the standard library and {fmt} takes the compiler longer than the rest of
# it. Off by default, for a build without them is what proves that each file includes what it uses; and for -O0 only: when
# it optimises, GCC 12 warns falsely of std::string's insides if it has them from a precompiled header.
option(MINIVMM_PCH "Precompile the heavy headers of the standard library, {fmt} and GoogleTest" OFF)

set(mv_heavy_headers
    <algorithm> <array> <atomic> <bit> <cerrno> <chrono> <condition_variable> <coroutine> <cstdint> <cstring> <deque>
    <expected> <filesystem> <fstream> <functional> <map> <memory> <mutex> <optional> <random> <set> <span> <string>
    <string_view> <thread> <utility> <vector> <fmt/format.h>)

# mv_precompiled(NAME HEADERS… LINK…): what mv_use_precompiled(TARGET NAME) then makes a target use. Libraries and
# executables share it: see -fPIC below.
function(mv_precompiled name)
  cmake_parse_arguments(ARG "" "" "HEADERS;LINK" ${ARGN})
  if(MINIVMM_PCH)
    set(source ${CMAKE_BINARY_DIR}/${name}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "")
    add_library(${name} OBJECT ${source})
    target_link_libraries(${name} PRIVATE mv_options ${ARG_LINK})
    target_precompile_headers(${name} PRIVATE ${mv_heavy_headers} ${ARG_HEADERS})
  endif()
endfunction()

function(mv_use_precompiled target name)
  if(MINIVMM_PCH)
    target_precompile_headers(${target} REUSE_FROM ${name})
  endif()
endfunction()

if(MINIVMM_PCH)
  # -fPIC for executables too, for their precompiled headers are the libraries'.
  target_compile_options(mv_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fPIC>)
  # ccache: the compiler's output may depend on the header's contents, and on nothing else of it (its manual, "Precompiled
  # headers").
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(mv_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  else()
    target_compile_options(mv_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:SHELL:-Xclang -fno-pch-timestamp>)
  endif()
  if(CCACHE AND CMAKE_CXX_COMPILER_LAUNCHER STREQUAL CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
  endif()
endif()
