-- The ways to look at a name: two names look alike if one of these digests is the same. What a letter looks like depends on its case
-- ("I" is like "l", "i" is not), so a name is looked at as it is written, in either case, and in capitals.
create or replace function name_looks(p_name text) returns bytea[] language sql stable as $$
    select array[sha256(convert_to(string_agg(coalesce(known.written, letter.letter), '' order by letter.place), 'UTF8')),
                 sha256(convert_to(string_agg(coalesce(known.capital, letter.letter), '' order by letter.place), 'UTF8'))]
    from unnest(string_to_array(normalize(p_name, nfkd), null)) with ordinality letter(letter, place)
    left join letter_look known on known.letter = letter.letter
$$;
