# A small stand-in for nixpkgs' lib: just what nix/*.nix uses, written for these tests.
# `evalModules` merges option definitions, applies defaults and checks types; it is enough to catch an option that
# does not exist, a value of the wrong type, and a misspelled library function.
let
  inherit (builtins) all any attrNames concatLists elemAt filter foldl' genList head isAttrs isBool isFunction isInt isList
    isString length listToAttrs mapAttrs match replaceStrings split stringLength tail typeOf;
  optional = cond: value: if cond then [ value ] else [ ];
  plain = name: check: { inherit name check; merge = where: defs: if length defs == 1 then head defs else throw "${where}: defined ${toString (length defs)} times"; };
  checked = type: where: value: if type.check value then value else throw "${where}: not of type ${type.name}, but ${typeOf value}";
in
rec {
  last = list: elemAt list (length list - 1);
  toInt = text: builtins.fromJSON text;
  splitString = sep: text: filter isString (split (replaceStrings [ "." "+" ] [ "\\." "\\+" ] sep) text);
  optionalString = cond: text: if cond then text else "";
  optionals = cond: list: if cond then list else [ ];
  hasPrefix = prefix: text: builtins.substring 0 (stringLength prefix) text == prefix;
  toLower = replaceStrings (letters "ABCDEFGHIJKLMNOPQRSTUVWXYZ") (letters "abcdefghijklmnopqrstuvwxyz");
  letters = text: genList (index: builtins.substring index 1 text) (stringLength text);
  literalExpression = text: { _type = "literalExpression"; inherit text; };
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  genAttrs = names: make: listToAttrs (map (name: { inherit name; value = make name; }) names);
  removePrefix = prefix: text: if hasPrefix prefix text then builtins.substring (stringLength prefix) (stringLength text) text else text;
  cleanSourceWith = { src, name, filter }: builtins.path { inherit name filter; path = src; };
  licenses = { mit = "MIT"; asl20 = "Apache-2.0"; };
  platforms = { linux = [ "x86_64-linux" ]; unix = platforms.linux ++ [ "x86_64-darwin" ]; };
  mkOption = option: option // { _type = "option"; };
  mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkDefault = content: { _type = "default"; inherit content; };

  types = rec {
    str = plain "str" isString;
    bool = plain "bool" isBool;
    path = plain "path" (v: isString v || builtins.isPath v);
    port = plain "port" (v: isInt v && v >= 0 && v <= 65535);
    ints.unsigned = plain "ints.unsigned" (v: isInt v && v >= 0);
    ints.between = low: high: plain "ints.between ${toString low} ${toString high}" (v: isInt v && v >= low && v <= high);
    strMatching = pattern: plain "str matching ${pattern}" (v: isString v && match pattern v != null);
    package = plain "package" (v: isString v || isAttrs v);
    anything = { name = "anything"; check = _: true; merge = _: defs: foldl' (a: b: if isAttrs a && isAttrs b then deep a b else b) (clean (head defs)) (map clean (tail defs)); };
    nullOr = type: { name = "null or ${type.name}"; check = v: v == null || type.check v; merge = where: defs: if head defs == null then null else type.merge where defs; };
    listOf = type: { name = "list of ${type.name}"; check = isList; merge = where: defs: map (v: type.merge where [ (checked type where v) ]) (concatLists defs); };
    attrsOf = type: {
      name = "attrs of ${type.name}";
      check = isAttrs;
      # What is off is not there.
      merge = where: defs:
        let given = name: concatLists (map (d: if d ? ${name} then resolve d.${name} else [ ]) defs); names = attrNames (foldl' (a: b: a // b) { } defs);
        in genAttrs (filter (name: given name != [ ]) names) (name: type.merge "${where}.${name}" (map (checked type "${where}.${name}") (given name)));
    };
    submodule = module: { name = "submodule"; check = isAttrs; merge = where: defs: settle where module.options defs; };
  };

  deep = a: b: a // mapAttrs (name: v: if a ? ${name} && isAttrs a.${name} && isAttrs v && !(a.${name} ? outPath) then deep a.${name} v else v) b;

  # Definitions of one value, conditions and merges resolved; defaults only count where nothing else does.
  resolve = def:
    if isAttrs def && def ? _type && def._type == "if" then (if def.condition then resolve def.content else [ ])
    else if isAttrs def && def ? _type && def._type == "merge" then concatLists (map resolve def.contents)
    else [ def ];
  # The same for a group of options: its names are known without asking the condition.
  push = def:
    if isAttrs def && def ? _type && def._type == "if" then map (mapAttrs (_: content: mkIf def.condition content)) (push def.content)
    else if isAttrs def && def ? _type && def._type == "merge" then concatLists (map push def.contents)
    else [ def ];
  # Inside a free-form value: drop what is off.
  clean = value:
    if !(isAttrs value) || value ? outPath then value
    else listToAttrs (concatLists (map (name: map (v: { inherit name; value = clean v; }) (resolve value.${name})) (attrNames value)));
  strip = defs:
    let weak = d: isAttrs d && d ? _type && d._type == "default"; strong = filter (d: !weak d) defs;
    in if strong != [ ] then strong else map (d: d.content) defs;

  settle = where: options: defs:
    let
      known = attrNames options;
      flat = concatLists (map push defs);
      stray = filter (name: !(options ? ${name})) (concatLists (map attrNames flat));
      value = name:
        let
          option = options.${name};
          here = "${where}.${name}";
          given = strip (concatLists (map (d: if d ? ${name} then resolve d.${name} else [ ]) flat));
        in
        if !(option ? _type) then settle here option (map (d: d.${name}) (filter (d: d ? ${name}) flat))
        else if given == [ ] then
          (if option ? default then (if option.type.name == "submodule" then option.type.merge here [ option.default ] else option.default)
          else throw "${here}: used but not defined")
        else option.type.merge here (map (checked option.type here) given);
    in
    if stray != [ ] then throw "${where}: no such option: ${toString stray}" else listToAttrs (map (name: { inherit name; value = value name; }) known);

  evalModules = { modules, specialArgs ? { } }:
    let
      lib = import ./lib.nix;
      load = module: let m = if isFunction module then module (specialArgs // { inherit lib config; }) else if isAttrs module then module else (import module) (specialArgs // { inherit lib config; }); in
        [ m ] ++ concatLists (map load (m.imports or [ ]));
      loaded = concatLists (map load modules);
      options = foldl' deep { } (map (m: m.options or { }) loaded);
      config = settle "config" options (map (m: m.config or (removeAttrs m [ "imports" "options" ])) loaded);
    in
    { inherit config options; };
}
