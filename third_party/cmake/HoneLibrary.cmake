# hone_find_library(<package> HEADER <file> NAMES <lib>... [SUFFIXES <folder>...] [HINTS <folder>...]
#                   [VERSION_FILE <header>] [VERSION_REGEX <regex with one group>...] [SHARED_ONLY])
#
# What every find module here does: one header, one library, the version from the header, the
# imported target <package>::<package>. With HONE_STATIC only archives count, unless the
# library is SHARED_ONLY. <package>_ROOT (variable or environment) is searched first.
include(FindPackageHandleStandardArgs)

macro(hone_find_library package)
  cmake_parse_arguments(arg "SHARED_ONLY" "HEADER" "NAMES;SUFFIXES;HINTS;VERSION_REGEX;VERSION_FILE"
                        ${ARGN})
  set(hone_saved_suffixes ${CMAKE_FIND_LIBRARY_SUFFIXES})
  if(HONE_STATIC AND NOT arg_SHARED_ONLY)
    set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
  endif()
  # First the preferred sub-folders alone: find_path would take a plain folder before them.
  foreach(suffix ${arg_SUFFIXES})
    find_path(${package}_INCLUDE_DIR ${suffix}/${arg_HEADER} HINTS ${arg_HINTS})
    if(${package}_INCLUDE_DIR AND NOT EXISTS ${${package}_INCLUDE_DIR}/${arg_HEADER})
      set_property(CACHE ${package}_INCLUDE_DIR PROPERTY VALUE
                   ${${package}_INCLUDE_DIR}/${suffix})
    endif()
    find_library(${package}_LIBRARY NAMES ${arg_NAMES} HINTS ${arg_HINTS}
                 PATH_SUFFIXES ${suffix} lib64/${suffix} lib/${suffix} NO_DEFAULT_PATH
                 PATHS ${CMAKE_C_IMPLICIT_LINK_DIRECTORIES})
  endforeach()
  find_path(${package}_INCLUDE_DIR ${arg_HEADER} HINTS ${arg_HINTS} PATH_SUFFIXES include)
  find_library(${package}_LIBRARY NAMES ${arg_NAMES} HINTS ${arg_HINTS} PATH_SUFFIXES lib64 lib)
  set(CMAKE_FIND_LIBRARY_SUFFIXES ${hone_saved_suffixes})
  mark_as_advanced(${package}_INCLUDE_DIR ${package}_LIBRARY)

  # The version is the groups of all expressions, joined by dots.
  set(${package}_VERSION "")
  set(hone_version_file ${arg_HEADER})
  if(arg_VERSION_FILE)
    set(hone_version_file ${arg_VERSION_FILE})
  endif()
  if(EXISTS "${${package}_INCLUDE_DIR}/${hone_version_file}")
    file(READ ${${package}_INCLUDE_DIR}/${hone_version_file} hone_header)
    foreach(regex ${arg_VERSION_REGEX})
      if(hone_header MATCHES "${regex}")
        string(APPEND ${package}_VERSION ".${CMAKE_MATCH_1}")
      endif()
    endforeach()
    string(REGEX REPLACE "^\\." "" ${package}_VERSION "${${package}_VERSION}")
  endif()

  set(hone_kind "")
  if(HONE_STATIC AND NOT arg_SHARED_ONLY)
    set(hone_kind " as a static archive (HONE_STATIC is on)")
  endif()
  find_package_handle_standard_args(
    ${package}
    REQUIRED_VARS ${package}_LIBRARY ${package}_INCLUDE_DIR
    VERSION_VAR ${package}_VERSION
    REASON_FAILURE_MESSAGE "${package} is needed${hone_kind}: scripts/install_deps.sh installs it")
  if(${package}_FOUND AND NOT TARGET ${package}::${package})
    add_library(${package}::${package} UNKNOWN IMPORTED)
    set_target_properties(
      ${package}::${package} PROPERTIES IMPORTED_LOCATION ${${package}_LIBRARY}
                                        INTERFACE_INCLUDE_DIRECTORIES ${${package}_INCLUDE_DIR})
  endif()
endmacro()
